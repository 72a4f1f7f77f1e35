//! The header `traceparent`.
//!
//! Source: W3C Trace Context, <https://www.w3.org/TR/trace-context/>, section 3.2.

/// The span that a row was inserted in, as its application wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// The application records the trace.
    sampled: bool,
}

impl Parent {
    /// Reads the header's value. `None`: it is not one.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = (text.get(..2)?, text.get(2..)?);
        // A later version may have more fields, behind another hyphen. 255 is no version.
        let ends_well = match hex::<1>(version)? {
            [0xff] => false,
            [0] => text.len() == 55,
            _ => text.len() == 55 || text.get(55) == Some(&b'-'),
        };
        let field = |from: usize, to: usize| rest.get(from..to);
        if !ends_well || [0, 33, 50].iter().any(|at| rest.get(*at) != Some(&b'-')) {
            return None;
        }
        let (trace, span) = (hex::<16>(field(1, 33)?)?, hex::<8>(field(34, 50)?)?);
        let [flags] = hex::<1>(field(51, 53)?)?;
        let is_valid = trace != [0; 16] && span != [0; 8];
        is_valid.then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// Whether the row's spans are to be recorded: those of this share of the traces that the
    /// application records. The trace alone decides, so all who sample the same share agree.
    pub(crate) fn is_recorded(&self, share: f64) -> bool {
        let [.., a, b, c, d, e, f, g, h] = self.trace;
        // OpenTelemetry's TraceIdRatioBased looks at these 63 bits.
        let drawn = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        self.sampled && (share >= 1.0 || drawn < (share * (1_u64 << 63) as f64) as u64)
    }
}

/// Lower-case hexadecimal, as the format demands.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn parent(text: &str) -> Option<Parent> {
        Parent::parse(text.as_bytes())
    }

    #[test]
    fn a_header_is_read_as_the_standard_says() {
        let read = parent(&format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!(read.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
        assert_eq!(read.span, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
        assert!(read.sampled && !parent(&format!("00-{TRACE}-00f067aa0ba902b7-fe")).unwrap().sampled);
        // What a later version adds is passed over.
        assert!(parent(&format!("01-{TRACE}-00f067aa0ba902b7-01-more")).is_some());
    }

    #[test]
    fn anything_else_is_no_header() {
        for text in [
            "",
            "00",
            &format!("00-{TRACE}-00f067aa0ba902b7"),
            &format!("00-{TRACE}-00f067aa0ba902b7-0"),
            &format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            &format!("01-{TRACE}-00f067aa0ba902b7-01more"),
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-00F067AA0BA902B7-01"),
            &format!("00_{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-0000000000000000-01"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parent(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_share_of_the_recorded_traces_is_recorded() {
        let of = |low: u64, flags: u8| {
            parent(&format!("00-{:032x}-00f067aa0ba902b7-{flags:02x}", (1_u128 << 64) | u128::from(low)))
        };
        let recorded = |low: u64, share: f64| of(low, 1).unwrap().is_recorded(share);
        assert!(recorded(u64::MAX, 1.0) && !recorded(0, 0.0));
        assert!(recorded(1 << 62, 0.3) && !recorded(1 << 62, 0.2));
        assert!(!of(0, 0).unwrap().is_recorded(1.0), "the application does not record it");
    }
}
