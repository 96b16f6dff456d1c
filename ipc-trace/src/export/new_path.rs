//! Files and folders that an export makes. What it doesn't complete is removed.
//!
//! Invariant: nothing that existed is opened, followed or removed, and nobody but the user can read what is made.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// A file that is removed unless it is kept.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
    is_kept: bool,
}

impl NewFile {
    /// Makes it.
    ///
    /// # Errors
    /// It exists, or can't be made.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        // O_EXCL: a symbolic link isn't followed.
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { path: path.to_owned(), file, is_kept: false })
    }

    /// The file.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Has it reach the disk, and keeps it. Returns its bytes.
    ///
    /// # Errors
    /// The disk refuses it.
    pub(crate) fn keep(mut self) -> io::Result<u64> {
        self.file.sync_all()?;
        self.is_kept = true;
        Ok(self.file.metadata()?.len())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{} is incomplete, and can't be removed: {error}", self.path.display());
        }
    }
}

#[cfg(any(feature = "sqlite", feature = "parquet"))]
pub(crate) use folder::NewFolder;

#[cfg(any(feature = "sqlite", feature = "parquet"))]
mod folder {
    use std::{
        fs::{self, DirBuilder, OpenOptions},
        io,
        os::{
            fd::OwnedFd,
            unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
        },
        path::{Path, PathBuf},
    };

    use nix::unistd::{UnlinkatFlags, unlinkat};

    /// A folder that is removed unless it is kept, with what was made in it.
    #[derive(Debug)]
    pub(crate) struct NewFolder {
        path: PathBuf,
        folder: OwnedFd,
        /// What was made in it, in that order
        made: Vec<(PathBuf, UnlinkatFlags)>,
        is_kept: bool,
    }

    impl NewFolder {
        /// Makes it.
        ///
        /// # Errors
        /// It exists, or can't be made.
        pub(crate) fn create(path: &Path) -> io::Result<Self> {
            DirBuilder::new().mode(0o700).create(path)?;
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let folder = OpenOptions::new().read(true).custom_flags(flags).open(path)?.into();
            Ok(Self { path: path.to_owned(), folder, made: Vec::new(), is_kept: false })
        }

        /// Keeps it, and what was made in it.
        #[cfg(feature = "parquet")]
        pub(crate) fn keep(mut self) {
            self.is_kept = true;
        }

        /// Makes a file in it, and the folders on the way that aren't there. It opens nothing that exists.
        ///
        /// # Errors
        /// It exists, or can't be made.
        #[cfg(feature = "parquet")]
        pub(crate) fn create_file(&mut self, within: &Path) -> io::Result<fs::File> {
            use nix::{
                errno::Errno,
                fcntl::{OFlag, openat},
                sys::stat::{Mode, mkdirat},
            };
            let folders: Vec<_> = within.ancestors().skip(1).collect();
            for folder in folders.into_iter().rev().filter(|one| !one.as_os_str().is_empty()) {
                match mkdirat(&self.folder, folder, Mode::S_IRWXU) {
                    Ok(()) => self.made.push((folder.to_owned(), UnlinkatFlags::RemoveDir)),
                    Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            let file = openat(&self.folder, within, flags, mode)?;
            self.made.push((within.to_owned(), UnlinkatFlags::NoRemoveDir));
            Ok(file.into())
        }
    }

    impl Drop for NewFolder {
        fn drop(&mut self) {
            if self.is_kept {
                return;
            }
            // By their names: nothing can be opened any more, so the folders can't be listed.
            for (within, flags) in self.made.iter().rev() {
                // If one stays, its folder does, too, and that is said.
                let _ = unlinkat(&self.folder, within.as_path(), *flags);
            }
            if let Err(error) = fs::remove_dir(&self.path) {
                log::warn!("{} is incomplete, and can't be removed: {error}", self.path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_private_new_and_removed_unless_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let file = NewFile::create(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(NewFile::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(file);
        assert!(!path.exists());
        NewFile::create(&path).unwrap().keep().unwrap();
        assert!(path.exists());
        let link = folder.path().join("link");
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert_eq!(NewFile::create(&link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(!folder.path().join("elsewhere").exists());
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn folders_are_private_new_and_removed_unless_kept() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out");
        let mut folder = NewFolder::create(&path).unwrap();
        for within in ["a/b/one", "a/b/two", "a/c/one"] {
            folder.create_file(Path::new(within)).unwrap();
        }
        assert!(folder.create_file(Path::new("a/b/one")).is_err());
        let modes = ["", "a", "a/b", "a/b/one"].map(|within| mode(&path.join(within)));
        assert_eq!(modes, [0o700, 0o700, 0o700, 0o600]);
        assert_eq!(NewFolder::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(folder);
        assert!(!path.exists());
        let mut folder = NewFolder::create(&path).unwrap();
        folder.create_file(Path::new("kept")).unwrap();
        folder.keep();
        assert!(path.join("kept").exists());
        let link = place.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(NewFolder::create(&link).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
