//! An event id as bytes that sort, tell where they end, and read back as text. They are no hash, so
//! two ids never pass for one.

use uuid::Uuid;

/// Begins the sixteen bytes of a uuid.
const UUID: u8 = 0xFF;
/// Begins a length of four bytes.
const LONG: u8 = 0xFE;

/// Appends an id that the server sent as a uuid.
pub(super) fn put_uuid(id: [u8; 16], out: &mut Vec<u8>) {
    out.push(UUID);
    out.extend_from_slice(&id);
}

/// Appends an id that came as text. A uuid in the form in which Postgres prints it becomes the same
/// bytes as with [`put_uuid`], since a header holds text whatever the column's type is.
pub(super) fn put_text(id: &[u8], out: &mut Vec<u8>) {
    if let Some(uuid) = canonical_uuid(id) {
        return put_uuid(uuid, out);
    }
    match u8::try_from(id.len()) {
        Ok(length) if length < LONG => out.push(length),
        _ => {
            out.push(LONG);
            out.extend_from_slice(&u32::try_from(id.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(id);
}

/// The length of the id that these bytes begin with. `None` when they are cut short.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let length = match *bytes.first()? {
        UUID => 17,
        LONG => 5 + usize::try_from(u32::from_be_bytes(*bytes.get(1..5)?.first_chunk()?)).ok()?,
        length => 1 + usize::from(length),
    };
    (bytes.len() >= length).then_some(length)
}

/// The id as a person knows it.
pub(super) fn text(id: &[u8]) -> String {
    match id.split_first() {
        Some((&UUID, uuid)) => Uuid::from_slice(uuid).map_or_else(|_| String::new(), |uuid| uuid.to_string()),
        Some((&LONG, rest)) => String::from_utf8_lossy(rest.get(4..).unwrap_or_default()).into_owned(),
        Some((_, text)) => String::from_utf8_lossy(text).into_owned(),
        None => String::new(),
    }
}

/// The bytes of a uuid in lower case with hyphens. Any other writing counts as another text.
fn canonical_uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let uuid = Uuid::try_parse_ascii(text).ok()?;
    let mut printed = [0; 36];
    (uuid.hyphenated().encode_lower(&mut printed).as_bytes() == text).then(|| uuid.into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_text(text.as_bytes(), &mut out);
        out
    }

    #[test]
    fn a_uuid_is_the_same_from_a_column_and_from_a_header() {
        let uuid = Uuid::from_u128(0x4d47_e190_0402_4048_bc2c_89dd_5434_3cdc);
        let mut column = Vec::new();
        put_uuid(uuid.into_bytes(), &mut column);
        assert_eq!(encoded(&uuid.to_string()), column);
        assert_ne!(encoded(&uuid.to_string().to_uppercase()), column);
        assert_eq!(text(&column), uuid.to_string());
    }

    proptest! {
        #[test]
        fn an_id_reads_back_and_tells_where_it_ends(id in "\\PC{0,400}", rest in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut bytes = encoded(&id);
            let whole = bytes.len();
            prop_assert_eq!(text(&bytes), id);
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(length(&bytes), Some(whole));
            prop_assert_eq!(length(&bytes[..whole - 1]), None);
        }
    }
}
