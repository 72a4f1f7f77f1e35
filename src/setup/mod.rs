//! stand-in until the ops branch lands
use crate::{Result, config::Source, postgres::SqlSession};
/// .
pub async fn require_server(_sql: &SqlSession) -> Result<()> { Ok(()) }
/// .
pub async fn ensure(_sql: &SqlSession, _source: &Source) -> Result<()> { Ok(()) }
