//! The settings that a server starts with.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::{Postgres, Version};

/// Settings of a future server; see [`Postgres::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(super) version: Version,
    pub(super) settings: Vec<(String, String)>,
    pub(super) hba: Vec<String>,
    pub(super) ssl: bool,
    pub(super) durable: bool,
    pub(super) wal_megabytes: Option<u32>,
}

impl Builder {
    pub(super) fn new(version: Version) -> Self {
        Self { version, settings: Vec::new(), hba: Vec::new(), ssl: false, durable: false, wal_megabytes: None }
    }

    /// Adds a line of postgresql.conf after ours, such as `("wal_level", "replica")`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a line of pg_hba.conf. The lines come in this order, before the final
    /// `host all all 127.0.0.1/32 trust`. The Unix socket, which [`Postgres::client`] uses, is
    /// always trusted.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Offers TLS, with certificates of an authority of our own; see [`Postgres::certificates`].
    #[must_use]
    pub fn ssl(mut self, on: bool) -> Self {
        self.ssl = on;
        self
    }

    /// Sets `fsync = on`: what was committed survives more than the death of the processes. This is
    /// slower, and is for benches.
    #[must_use]
    pub fn durable(mut self, on: bool) -> Self {
        self.durable = on;
        self
    }

    /// Puts `pg_wal` on a tmpfs of this size, with segments of 1 MB. It needs root. See
    /// [`Postgres::resize_wal`].
    #[must_use]
    pub fn wal_megabytes(mut self, megabytes: u32) -> Self {
        self.wal_megabytes = Some(megabytes);
        self
    }

    /// Starts it.
    pub async fn start(self) -> Result<Postgres> {
        Postgres::start_with(self).await
    }

    /// The text of postgresql.conf without the port, which changes when it is taken already.
    pub(super) fn postgresql_conf(&self, socket_dir: &Path) -> String {
        let on_off = |on| if on { "on" } else { "off" };
        let mut settings: Vec<(&str, &str)> = vec![
            ("listen_addresses", "127.0.0.1"),
            ("wal_level", "logical"),
            ("max_wal_senders", "100"),
            // On a server that all tests share, each leaves one.
            ("max_replication_slots", "2000"),
            ("max_connections", "400"),
            ("max_prepared_transactions", "20"),
            ("shared_buffers", "64MB"),
            ("fsync", on_off(self.durable)),
            ("full_page_writes", on_off(self.durable)),
            // The shared memory is in the data directory, so that nothing stays in /dev/shm after
            // kill -9.
            ("dynamic_shared_memory_type", "mmap"),
            ("timezone", "UTC"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
            ("ssl", on_off(self.ssl)),
        ];
        if self.ssl {
            settings.extend([
                ("ssl_ca_file", "../tls/ca.crt"),
                ("ssl_cert_file", "../tls/server.crt"),
                ("ssl_key_file", "../tls/server.key"),
            ]);
        }
        let mut text = format!("\n# testbed\nunix_socket_directories = '{}'\n", socket_dir.display());
        let chosen = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in settings.into_iter().chain(chosen) {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        text
    }

    pub(super) fn pg_hba_conf(&self) -> String {
        let mut text = "local all all trust\nlocal replication all trust\n".to_owned();
        for line in &self.hba {
            let _ = writeln!(text, "{line}");
        }
        text.push_str("host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n");
        text
    }
}
