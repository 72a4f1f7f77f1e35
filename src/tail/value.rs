//! What the bytes of a key, a header or a value are.

use serde::de::IgnoredAny;

/// Bytes, by what they can be shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Kafka's null.
    Null,
    /// One JSON value.
    Json(&'a str),
    /// UTF-8 that is no JSON.
    Text(&'a str),
    /// Anything else.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn of(bytes: Option<&'a [u8]>) -> Self {
        match Self::of_text(bytes) {
            // It reads the text and keeps nothing of it, so its depth and its numbers have no bound.
            Self::Text(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => Self::Json(text),
            other => other,
        }
    }

    /// The same for what is never read as JSON: a key or a header.
    pub(super) fn of_text(bytes: Option<&'a [u8]>) -> Self {
        match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => Self::Null,
            Some((_, Ok(text))) => Self::Text(text),
            Some((bytes, Err(_))) => Self::Bytes(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_from_text_and_text_from_bytes() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        for json in ["{}", " {\"a\": 1.50}\n", "12345678901234567890.00", "1e999999", "\"x\"", "null", deep.as_str()] {
            assert_eq!(Value::of(Some(json.as_bytes())), Value::Json(json));
        }
        for text in ["", "hello", "{} {}", "{\"a\":}", "'x'", "NaN", "\"a\nb\""] {
            assert_eq!(Value::of(Some(text.as_bytes())), Value::Text(text));
        }
        assert_eq!(Value::of(Some(b"\xff\x00")), Value::Bytes(b"\xff\x00"));
        assert_eq!(Value::of(Some(b"\"\xff\"")), Value::Bytes(b"\"\xff\""));
        assert_eq!(Value::of(None), Value::Null);
        assert_eq!(Value::of_text(Some(b"7")), Value::Text("7"));
    }
}
