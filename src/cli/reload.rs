//! SIGHUP: reads the configuration again, while the daemon runs.
//!
//! What can change changes, one log line says what that is, and another one what needs a restart. A
//! configuration that is wrong changes nothing.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    Config, Result,
    config::{Flags, Reloaded},
    door,
    telemetry::logs::Level,
};

/// Reads the configuration again at each signal.
pub(super) struct Reloading {
    /// What names the configuration.
    pub(super) flags: Flags,
    /// The filter of the log.
    pub(super) level: Level,
    /// Whoever works by the configuration.
    pub(super) config: watch::Sender<Arc<Config>>,
}

impl Reloading {
    /// Runs as long as signals come.
    pub(super) async fn run(self, mut signals: tokio::signal::unix::Signal) {
        while signals.recv().await.is_some() {
            self.reload(door::open(&self.flags));
        }
    }

    /// Takes over what was read.
    fn reload(&self, read: Result<Config>) {
        let new = match read {
            Ok(new) => new,
            Err(error) => {
                let (code, hint) = (error.code().as_str(), error.hint());
                warn!(code, hint, "the configuration was read again and is wrong; nothing changes: {}", error.detail());
                return;
            }
        };
        let before = self.config.borrow().clone();
        let Reloaded { config, changed, needs_restart } = before.reload(&new);
        let changed = changed.join(", ");
        if before.log.level != config.log.level {
            self.level.set(&config.log.level);
        }
        if changed.is_empty() {
            info!("the configuration was read again; nothing has changed that can change now");
        } else {
            info!(changed, "the configuration was read again and has changed");
        }
        if !needs_restart.is_empty() {
            let keys = needs_restart.join(", ");
            warn!(keys, "the file says otherwise than what runs, and these keys need a restart");
        }
        self.config.send_replace(Arc::new(config));
    }
}
