//! The one call of librdkafka that outboxd needs and rust-rdkafka does not offer.
//!
//! rust-rdkafka gives a client its SASL/OAUTHBEARER token (KIP-255) only while the application
//! polls the client's main queue. Nothing can poll that of an admin client, and one whose calls
//! block would wait for its first token before anybody polls. librdkafka itself takes a token at
//! any time, from any thread.

use std::{
    ffi::{CStr, CString},
    ptr,
};

use rdkafka::{
    ClientContext,
    bindings::{rd_kafka_oauthbearer_set_token, rd_kafka_resp_err_t},
    client::{Client, OAuthToken},
};

/// Room for the reason of a refusal.
const REASON: usize = 512;

/// Gives the client the token that its next connections log in with.
///
/// # Errors
/// librdkafka's reason: the token has expired, holds what RFC 7628 forbids, or the client is not
/// configured for OAUTHBEARER.
pub fn set_token<C: ClientContext>(client: &Client<C>, token: &OAuthToken) -> Result<(), String> {
    let text = |text: &str| CString::new(text).map_err(|_| "a token holds a zero byte".to_owned());
    let (value, principal) = (text(&token.token)?, text(&token.principal_name)?);
    let mut reason = [0_u8; REASON];
    // SAFETY: the client lives as long as the borrow of `client`; both strings and `reason` outlive
    // the call, which copies what it keeps; there are no extensions, so their pointer is not read;
    // librdkafka writes at most `reason.len()` bytes, a zero byte among them.
    let refused = unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            reason.as_mut_ptr().cast(),
            reason.len(),
        )
    };
    if refused == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    Err(CStr::from_bytes_until_nul(&reason)
        .map_or_else(|_| "no reason given".to_owned(), |reason| reason.to_string_lossy().into_owned()))
}
