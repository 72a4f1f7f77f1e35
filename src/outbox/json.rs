//! JSON text: strings, and bytes as base64 strings. (JSON documents are spliced in as they are.)

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// How each byte is written in a string. 0 means as itself, `u` means as `\u00xx`, and any other
/// value stands after a backslash. Source: RFC 8259, section 7.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0A] = b'n';
    table[0x0C] = b'f';
    table[0x0D] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Appends `text` as a JSON string, quotes included.
pub(super) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    // Most text needs no escape, and is copied in one piece.
    while let Some(at) = rest.iter().position(|&byte| ESCAPES[usize::from(byte)] != 0) {
        out.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        match ESCAPES[usize::from(byte)] {
            b'u' => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[b"0123456789abcdef"[usize::from(byte >> 4)]]);
                out.extend_from_slice(&[b"0123456789abcdef"[usize::from(byte & 15)]]);
            }
            escape => out.extend_from_slice(&[b'\\', escape]),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Bytes that [`base64()`] takes at once.
pub(super) const BASE64_PIECE: usize = 48;

/// Appends at most [`BASE64_PIECE`] bytes as base64 (standard alphabet, padded). The caller writes
/// longer bytes piece by piece; only the last piece may be short.
pub(super) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let mut text = [0; BASE64_PIECE / 3 * 4];
    // 64 characters hold the 48 bytes of a piece, so this always succeeds.
    if let Ok(length) = STANDARD.encode_slice(bytes, &mut text) {
        out.extend_from_slice(&text[..length]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn controls_quotes_and_backslashes_are_escaped_and_nothing_else() {
        let mut out = Vec::new();
        string("a\"b\\c\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}é😀/", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\\\"b\\\\c\\b\\f\\n\\r\\t\\u0001\\u001f\u{7f}é😀/\"");
    }

    proptest! {
        #[test]
        fn any_string_reads_back(text in any::<String>()) {
            let mut out = Vec::new();
            string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
