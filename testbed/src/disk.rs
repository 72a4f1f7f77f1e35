//! A disk that is small enough for a test to fill it.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// This script mounts the disk and waits for the end of its input, which comes when the process
/// ends that started it. Then it unmounts and removes everything, even what is in use.
const KEEPER: &str = r#"
mount -t tmpfs -o "size=$2,mode=0777" testbed "$1" && echo mounted || exit 1
trap '' HUP INT TERM
while read -r _; do :; done
umount -l "$1"
rmdir "$1"
"#;

/// A file system in memory with a size of its own. It ends when it is dropped, or when our process
/// dies.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
    keeper: Child,
}

impl SmallDisk {
    /// Mounts one. Only root may: others need a `sudo` that asks for no password, as `install-deps`
    /// does.
    pub fn mount(mebibytes: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("testbed-disk-").tempdir()?.keep();
        let mut command = if nix::unistd::geteuid().is_root() { Command::new("sh") } else { Command::new("sudo") };
        if !nix::unistd::geteuid().is_root() {
            command.args(["-n", "sh"]);
        }
        let keeper = command
            .args(["-c", KEEPER, "testbed-disk"])
            .arg(&dir)
            .arg(format!("{mebibytes}m"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot mount a tmpfs: this needs root, or sudo without a password")?;
        let mut disk = Self { dir, keeper };
        let mut said = String::new();
        let stdout = disk.keeper.stdout.take().context("no stdout")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said)?;
        if said.trim() != "mounted" {
            bail!("cannot mount a tmpfs: this needs root (CAP_SYS_ADMIN), or sudo without a password");
        }
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Fills the disk to the last byte, and returns how many bytes that took.
    pub fn fill(&self) -> Result<usize> {
        let (mut file, mut written) = (File::create(self.filler())?, 0);
        for block in [1 << 16, 1 << 12, 1] {
            loop {
                match file.write(&vec![0; block]) {
                    Ok(bytes) => written += bytes,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(written)
    }

    /// Frees what [`SmallDisk::fill`] took.
    pub fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The end of its input makes the keeper clean up.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
