//! Writing a file whole or not at all.

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tempfile::{Builder, NamedTempFile};

/// Fails if a file at `path` could not be written: asked before work whose result goes there.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    temporary(path).map(drop)
}

/// Writes through a temporary file in the same folder, which then takes the name `path`.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<()>,
) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = temporary(path)?;
    fill(&mut file).with_context(failed)?;
    file.persist(path).map_err(|failure| failure.error).with_context(failed)?;
    Ok(())
}

fn temporary(path: &Path) -> Result<NamedTempFile> {
    let failed = || format!("cannot write {}", path.display());
    // A rename would put a file in the place of a folder or a device.
    if path.exists() && !path.is_file() {
        return Err(anyhow!("it is there and no regular file")).with_context(failed);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // Opened by hand: with the usual permissions, and an error that does not name the temporary.
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
    let made = Builder::new().prefix(".glm-").make_in(folder.unwrap_or(Path::new(".")), create);
    made.with_context(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.json");
        write(&path, |out| Ok(out.write_all(b"old")?))?;
        let failed = write(&path, |out| {
            out.write_all(b"half")?;
            Err(anyhow!("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path)?, "old");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1, "no temporary file is left");
        Ok(())
    }

    #[test]
    fn an_unwritable_place_is_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let missing = folder.path().join("missing").join("a.json");
        let message = format!("{:#}", check_writable(&missing).expect_err("the folder is missing"));
        assert!(!message.contains(".glm-"), "{message}");
        let reason = fs::File::create(&missing).expect_err("the folder is missing").to_string();
        assert_eq!(message, format!("cannot write {}: {reason}", missing.display()));
        assert!(check_writable(folder.path()).is_err(), "a folder is no file");
        #[cfg(unix)]
        assert!(check_writable(Path::new("/dev/null")).is_err(), "a device is no file");
        Ok(())
    }
}
