//! Debian's kernels, and the cache of them.
//!
//! Invariant: files in the cache are complete, and are used when the archive can't be reached.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};

use super::archive::Archive;

/// The suite whose busybox is in every machine.
pub(super) const BUSYBOX_SUITE: &str = "bookworm";

/// Which of a suite's kernels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KernelFlavour {
    /// The one for virtual machines, whose package is half as large as that of the one for all machines
    Cloud,
    /// The one that preempts itself almost everywhere
    RealTime,
}

impl KernelFlavour {
    /// The package that depends on the newest one.
    fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::RealTime => "linux-image-rt-amd64",
        }
    }

    /// What it adds to the suite's name in the cache.
    fn suffix(self) -> &'static str {
        match self {
            Self::Cloud => "",
            Self::RealTime => "-rt",
        }
    }
}

/// For how long the archive is not checked for newer ones.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// A kernel to boot.
#[derive(Clone, Debug)]
pub(crate) struct BootKernel {
    /// Its compressed image (bzImage)
    pub(crate) image: PathBuf,
    /// What `uname -r` will say
    pub(crate) release: String,
}

impl BootKernel {
    /// The kernel in an image file.
    ///
    /// # Errors
    ///
    /// When the file is none.
    pub(super) fn open(image: &Path) -> anyhow::Result<Self> {
        let release =
            release(image).with_context(|| format!("{} is no kernel image", image.display()))?;
        Ok(Self { image: image.to_owned(), release })
    }

    /// Its version, by its first two numbers.
    pub(super) fn version(&self) -> String {
        let mut parts = self.release.split(['.', '-', '+']);
        format!("{}.{}", parts.next().unwrap_or("?"), parts.next().unwrap_or("?"))
    }
}

/// The suite's newest kernel, from the cache while that was filled not long ago.
pub(super) fn of_suite(
    suite: &str,
    flavour: KernelFlavour,
    cache: &Path,
    refresh: bool,
) -> anyhow::Result<BootKernel> {
    let folder = cache.join("kernels").join(format!("{suite}{}", flavour.suffix()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let cached = newest_in(&folder);
    if let Some(image) = &cached
        && !refresh
        && is_fresh(&folder.join("asked"))
    {
        return BootKernel::open(image);
    }
    match fetch(suite, flavour, cache, &folder) {
        Ok(kernel) => Ok(kernel),
        Err(error) => match cached {
            Some(image) => {
                eprintln!("xtask: {suite}: {error:#}; using {}", image.display());
                BootKernel::open(&image)
            }
            None => Err(error.context(format!("cannot get the kernel of {suite}"))),
        },
    }
}

/// The statically linked busybox of a suite.
pub(super) fn busybox(suite: &str, cache: &Path) -> anyhow::Result<PathBuf> {
    let path = cache.join("busybox");
    if !path.exists() {
        let archive = Archive::open(suite, &cache.join("apt").join(suite))?;
        eprintln!("xtask: fetching busybox-static from {suite}");
        store(&path, &archive.file_of("busybox-static", "*/bin/busybox")?)?;
    }
    Ok(path)
}

fn fetch(
    suite: &str,
    flavour: KernelFlavour,
    cache: &Path,
    folder: &Path,
) -> anyhow::Result<BootKernel> {
    let archive = Archive::open(suite, &cache.join("apt").join(suite))?;
    let newest = archive.show(flavour.package())?;
    let image = newest.dependency("linux-image-").context("it depends on no kernel")?;
    let mut package = archive.show(image)?;
    let mut name = image.to_owned();
    // Since 7.2 the image has a package of its own.
    if let Some(binary) = package.dependency("linux-binary-") {
        name = binary.to_owned();
        package = archive.show(&name)?;
    }
    let version = package.get("Version").context("it has no version")?;
    let path = folder.join(format!("vmlinuz-{name}_{version}"));
    if !path.exists() {
        eprintln!("xtask: fetching {name} {version} from {suite}");
        store(&path, &archive.file_of(&name, "*/vmlinuz*")?)?;
    }
    let kernel = BootKernel::open(&path)?;
    for old in images_in(folder).filter(|old| *old != path) {
        fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    File::create(folder.join("asked")).context("cannot record that the archive was checked")?;
    Ok(kernel)
}

fn images_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.starts_with("vmlinuz-").then(|| entry.path())
    })
}

fn newest_in(folder: &Path) -> Option<PathBuf> {
    images_in(folder).max_by_key(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
}

fn is_fresh(stamp: &Path) -> bool {
    fs::metadata(stamp)
        .and_then(|file| file.modified())
        .is_ok_and(|then| SystemTime::now().duration_since(then).is_ok_and(|age| age < FRESH))
}

/// Writes a file under another name first, so that it never exists in part.
fn store(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_file_name(format!(".partial-{}", process::id()));
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The release in an image's header (Documentation/arch/x86/boot.rst: `HdrS` at 0x202, and
/// at 0x20e where from 0x200 on the text is).
fn release(image: &Path) -> anyhow::Result<String> {
    let mut file = File::open(image)?;
    let mut header = [0; 0x210];
    file.read_exact(&mut header)?;
    if header.get(0x202..0x206) != Some(b"HdrS") {
        bail!("it has no header of a bzImage");
    }
    let at = header.get(0x20e..).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
    file.seek(SeekFrom::Start(0x200 + u64::from(at.context("its header is too short")?)))?;
    let mut text = Vec::new();
    file.take(256).read_to_end(&mut text)?;
    let release = text.split(|byte| matches!(byte, 0 | b' ')).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(release).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_read_from_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bzimage");
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image.splice(0x300..0x300, *b"6.12.117+deb13-cloud-amd64 (somebody) #1\0");
        fs::write(&path, image).unwrap();
        let kernel = BootKernel::open(&path).unwrap();
        assert_eq!(kernel.release, "6.12.117+deb13-cloud-amd64");
        assert_eq!(kernel.version(), "6.12");
        fs::write(&path, "no kernel").unwrap();
        let error = BootKernel::open(&path).unwrap_err();
        assert!(error.to_string().contains("bzimage"), "{error}");
    }
}
