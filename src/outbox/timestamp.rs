//! Postgres's timestamps: from their text to microseconds since the Unix epoch, and from those to
//! RFC 3339.
//!
//! The text is that of DateStyle ISO, which our sessions set: `2024-01-15 10:30:00.123456+00`, the
//! fraction without trailing zeros. A `timestamp` has no zone and counts as UTC. Source: PostgreSQL
//! documentation, "Date/Time Output".

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// 0001-01-01 and 9999-12-31. RFC 3339 has four digits for the year and no year before Christ.
const FIRST_DAY: i64 = -719_162;
const LAST_DAY: i64 = 2_932_896;

/// Microseconds since the Unix epoch of a timestamp's text.
///
/// # Errors
/// Says in a few words what is wrong: infinite, before Christ, or not the text of a timestamp.
pub(super) fn parse(text: &str) -> Result<i64, &'static str> {
    const SHAPE: &str = "is not a timestamp in ISO form";
    if text.ends_with("infinity") {
        return Err("is infinite");
    }
    if text.ends_with(" BC") {
        return Err("lies before Christ, which RFC 3339 cannot express");
    }
    let (date, clock) = text.split_once(' ').ok_or(SHAPE)?;
    let date = date.as_bytes();
    if date.len() > 10 && date.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
        return Err("lies after the year 9999, which RFC 3339 cannot express");
    }
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else { return Err(SHAPE) };
    let year = pair(y1, y2).zip(pair(y3, y4)).map(|(high, low)| high * 100 + low).ok_or(SHAPE)?;
    let (month, day) = pair(m1, m2).zip(pair(d1, d2)).ok_or(SHAPE)?;
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_of_month(year, month) {
        return Err(SHAPE);
    }
    let (time, rest) = clock.as_bytes().split_at_checked(8).ok_or(SHAPE)?;
    let [h1, h2, b':', n1, n2, b':', s1, s2] = *time else { return Err(SHAPE) };
    let (hour, minute) = pair(h1, h2).zip(pair(n1, n2)).ok_or(SHAPE)?;
    let second = pair(s1, s2).ok_or(SHAPE)?;
    if hour > 23 || minute > 59 || second > 59 {
        return Err(SHAPE);
    }
    let (fraction, zone) = fraction(rest).ok_or(SHAPE)?;
    let offset = offset(zone).ok_or(SHAPE)?;
    Ok(days_since_epoch(year, month, day) * DAY + (hour * 3600 + minute * 60 + second - offset) * SECOND + fraction)
}

/// Microseconds since the Unix epoch of what [`write_rfc3339`] wrote.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    parse(&format!("{date} {clock}")).ok()
}

/// Microseconds since the Unix epoch of a binary timestamp. That counts microseconds since
/// 2000-01-01, and the two ends of its range stand for the infinities. Source: `timestamp_send` and
/// `DT_NOBEGIN`, `DT_NOEND` in PostgreSQL's timestamp.h.
pub(super) fn from_binary(bytes: &[u8]) -> Result<i64, &'static str> {
    let bytes: [u8; 8] = bytes.try_into().map_err(|_| "is not a timestamp of 8 bytes")?;
    match i64::from_be_bytes(bytes) {
        i64::MIN | i64::MAX => Err("is infinite"),
        since_2000 => since_2000.checked_add(946_684_800 * SECOND).ok_or("is out of range"),
    }
}

/// A moment's text: at most `2024-01-15 10:30:00.123456`, and its length.
pub(super) type Printed = ([u8; 26], usize);

/// Writes microseconds since the Unix epoch as RFC 3339 in UTC, with as many digits after the point
/// as the time needs.
///
/// # Errors
/// When the year is not one of 1 to 9999.
pub(crate) fn write_rfc3339(micros: i64, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let (mut text, length) = print(micros)?;
    text[10] = b'T';
    out.extend_from_slice(&text[..length]);
    out.push(b'Z');
    Ok(())
}

/// Microseconds since the Unix epoch as Postgres prints a `timestamp`.
///
/// # Errors
/// When the year is not one of 1 to 9999.
pub(super) fn print(micros: i64) -> Result<Printed, &'static str> {
    let (day, of_day) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    if !(FIRST_DAY..=LAST_DAY).contains(&day) {
        return Err("lies outside the years 1 to 9999, which RFC 3339 cannot express");
    }
    let (year, month, day) = date_of(day);
    let (seconds, fraction) = (of_day / SECOND, of_day % SECOND);
    let mut text = *b"0000-00-00 00:00:00.000000";
    let pairs = [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, seconds / 3600),
        (14, seconds / 60 % 60),
        (17, seconds % 60),
        (20, fraction / 10_000),
        (22, fraction / 100 % 100),
        (24, fraction % 100),
    ];
    for (at, value) in pairs {
        text[at] += digit(value / 10);
        text[at + 1] += digit(value);
    }
    let needed = text.iter().rposition(|&byte| byte != b'0').map_or(0, |last| last + 1);
    // Trailing zeros of the fraction go, and so does the point if nothing follows it.
    Ok((text, if needed <= 20 { 19 } else { needed }))
}

/// The last decimal digit as a byte.
fn digit(value: i64) -> u8 {
    u8::try_from(value % 10).unwrap_or_default()
}

fn pair(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

/// `.5…` as microseconds, and what follows it.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', digits)) = rest.split_first() else { return Some((0, rest)) };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=6).contains(&count) {
        return None;
    }
    let value = digits[..count].iter().fold(0, |value, byte| value * 10 + i64::from(byte - b'0'));
    Some((value * 10_i64.pow(6 - u32::try_from(count).ok()?), &digits[count..]))
}

/// `+02`, `-03:30` or `+00:53:28` (local mean time) as seconds. No zone means UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, parts) = match zone.split_first() {
        None => return Some(0),
        Some((b'+', parts)) => (1, parts),
        Some((b'-', parts)) => (-1, parts),
        Some(_) => return None,
    };
    let seconds = match *parts {
        [h1, h2] => pair(h1, h2)? * 3600,
        [h1, h2, b':', m1, m2] => pair(h1, h2)? * 3600 + pair(m1, m2)? * 60,
        [h1, h2, b':', m1, m2, b':', s1, s2] => pair(h1, h2)? * 3600 + pair(m1, m2)? * 60 + pair(s1, s2)?,
        _ => return None,
    };
    Some(sign * seconds)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, in the proleptic Gregorian calendar. The year starts in March here, so
/// that the leap day comes last. Five months from March on have 153 days.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse: year, month, day.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rfc3339(text: &str) -> Result<String, &'static str> {
        let mut out = Vec::new();
        write_rfc3339(parse(text)?, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_timestamp_becomes_rfc_3339_in_utc_with_the_digits_that_postgres_prints() {
        let cases = [
            ("2024-01-15 10:30:00", "2024-01-15T10:30:00Z"),
            ("2024-01-15 10:30:00.123456+00", "2024-01-15T10:30:00.123456Z"),
            ("2019-05-03 13:31:34.344999", "2019-05-03T13:31:34.344999Z"),
            ("2019-05-03 13:31:34.344", "2019-05-03T13:31:34.344Z"),
            ("2019-05-03 15:31:34.5+02", "2019-05-03T13:31:34.5Z"),
            ("2024-03-01 00:15:00+05:45", "2024-02-29T18:30:00Z"),
            ("2023-12-31 22:00:00-03:30", "2024-01-01T01:30:00Z"),
            ("1890-01-01 00:53:28+00:53:28", "1890-01-01T00:00:00Z"),
            ("0001-01-01 00:00:00", "0001-01-01T00:00:00Z"),
            ("9999-12-31 23:59:59.999999", "9999-12-31T23:59:59.999999Z"),
            ("1969-12-31 23:59:59.000001", "1969-12-31T23:59:59.000001Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(rfc3339(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_rfc_3339_cannot_express_says_so() {
        for (text, what) in [
            ("infinity", "infinite"),
            ("-infinity", "infinite"),
            ("0044-03-15 12:00:00 BC", "before Christ"),
            ("10000-01-01 00:00:00", "9999"),
            ("9999-12-31 23:00:00-02", "9999"),
            ("0001-01-01 00:00:00+01", "outside the years"),
        ] {
            assert!(rfc3339(text).is_err_and(|error| error.contains(what)), "{text}: {:?}", rfc3339(text));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            " ",
            "2024-01-15",
            "2024-01-15T10:30:00",
            "15.01.2024 10:30:00",
            "2024-13-01 00:00:00",
            "2023-02-29 00:00:00",
            "2024-01-15 24:00:00",
            "2024-01-15 10:60:00",
            "2024-01-15 10:30:00.",
            "2024-01-15 10:30:00.1234567",
            "2024-01-15 10:30:00+2",
            "2024-01-15 10:30:00Z",
            "2024-01-15 10:30:0é",
            "2024-01-15 10:30:00 PST",
            "0000-01-01 00:00:00",
            "é024-01-15 10:30:00",
            "+infinit",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken for a timestamp");
        }
    }

    #[test]
    fn milliseconds_are_known_from_elsewhere() {
        // `date -u -d 2019-05-03T13:31:34Z +%s` is 1556890294.
        assert_eq!(parse("2019-05-03 13:31:34.344999"), Ok(1_556_890_294_344_999));
        assert_eq!(parse("1969-12-31 23:59:59.999"), Ok(-1_000));
    }

    #[test]
    fn the_binary_form_counts_from_2000() {
        assert_eq!(from_binary(&0_i64.to_be_bytes()), parse("2000-01-01 00:00:00"));
        assert_eq!(from_binary(&(-1_i64).to_be_bytes()), parse("1999-12-31 23:59:59.999999"));
        assert!(from_binary(&i64::MAX.to_be_bytes()).is_err());
        assert!(from_binary(&i64::MIN.to_be_bytes()).is_err());
        assert!(from_binary(&[0; 7]).is_err());
    }

    proptest! {
        #[test]
        fn every_moment_of_the_range_reads_back(micros in FIRST_DAY * DAY..(LAST_DAY + 1) * DAY) {
            let (text, length) = print(micros).unwrap();
            prop_assert_eq!(parse(std::str::from_utf8(&text[..length]).unwrap()), Ok(micros));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_moment_is_written_or_refused(micros in any::<i64>()) {
            let _ = write_rfc3339(micros, &mut Vec::new());
        }
    }
}
