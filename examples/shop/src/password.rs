//! Password hashes: argon2id with the crate's recommended cost.

use anyhow::{Result, anyhow};
use argon2::{
    Argon2, PasswordHash, PasswordHasher, PasswordVerifier,
    password_hash::{SaltString, rand_core::OsRng},
};

/// The hash to keep. It takes tens of milliseconds, so it does not run on the runtime's threads.
pub async fn hash(password: String) -> Result<String> {
    tokio::task::spawn_blocking(move || {
        let salt = SaltString::generate(&mut OsRng);
        let hash = Argon2::default().hash_password(password.as_bytes(), &salt);
        hash.map(|hash| hash.to_string()).map_err(|error| anyhow!("argon2: {error}"))
    })
    .await?
}

/// Whether this is the password of the hash.
pub async fn is_right(password: String, hash: String) -> Result<bool> {
    let check = move || {
        PasswordHash::new(&hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
    };
    Ok(tokio::task::spawn_blocking(check).await?)
}
