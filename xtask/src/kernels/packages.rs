//! Kernels of Debian's suites, newest first of each, unpacked in a cache. The machine's own packages are not touched: apt
//! gets folders of its own. Signatures are checked, with the keys of the machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::said;
use crate::process::run as execute;

/// A suite of Debian.
pub(super) struct Suite {
    /// As apt knows it.
    pub(super) name: &'static str,
    /// As people know it.
    pub(super) title: &'static str,
    /// Is its kernel one that the product runs on? Where not, what it says is shown.
    pub(super) supported: bool,
}

/// The suites whose kernels are tried, the oldest first.
pub(super) const SUITES: [Suite; 4] = [
    Suite { name: "bullseye", title: "Debian 11", supported: false },
    Suite { name: "bookworm", title: "Debian 12", supported: true },
    Suite { name: "trixie", title: "Debian 13", supported: true },
    Suite { name: "sid", title: "Debian unstable", supported: true },
];

/// The suite of that name.
pub(super) fn suite(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|suite| suite.name == name)
}

/// What depends on the kernel of a suite.
const META: &str = "linux-image-amd64";
/// Names of packages that hold a part of a kernel.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
pub(super) struct Package {
    /// `linux-image-...` and its version.
    pub(super) name: String,
    /// The folder of its files.
    pub(super) files: PathBuf,
}

/// The kernel that a suite has now.
pub(super) fn fetch(suite: &str, cache: &Path) -> Result<Package> {
    let apt = Apt::new(suite, cache)?;
    let parts = apt.parts()?;
    let image = parts.iter().find(|part| part.starts_with(PARTS[0]));
    let image = image.with_context(|| format!("{META} of {suite} depends on no kernel"))?;
    let version = apt.version(image)?;
    let name = format!("{image} {version}");
    let files = cache.join(format!("{image}_{}", version.replace(['/', ':'], "-")));
    if !files.is_dir() {
        eprintln!("kernels: fetching {name}");
        let partial = files.with_extension("partial");
        remove(&partial)?;
        let (packages, unpacked) = (partial.join("packages"), partial.join("files"));
        fs::create_dir_all(&packages).with_context(|| format!("failed to make {}", packages.display()))?;
        execute(apt.command("apt-get").args(["download", "-qq"]).args(&parts).current_dir(&packages))?;
        for package in fs::read_dir(&packages)? {
            execute(Command::new("dpkg-deb").arg("--extract").arg(package?.path()).arg(&unpacked))?;
        }
        // Only a whole kernel has the name that is looked for.
        fs::rename(&unpacked, &files).with_context(|| format!("failed to place {}", files.display()))?;
        remove(&partial)?;
    }
    Ok(Package { name, files })
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("failed to remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// apt with one suite and folders of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(suite: &str, cache: &Path) -> Result<Self> {
        let apt = Self { folder: cache.join("apt").join(suite) };
        for folder in ["lists/partial", "archives/partial"] {
            let folder = apt.folder.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        }
        let source = format!("deb [arch=amd64 signed-by={KEYS}] {} {suite} main\n", mirror()?);
        fs::write(apt.folder.join("sources.list"), source)?;
        execute(apt.command("apt-get").args(["update", "-qq"]))
            .with_context(|| format!("failed to read what {suite} has"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::SourceList", self.folder.join("sources.list")),
            ("Dir::Etc::SourceParts", PathBuf::from("-")),
            ("Dir::State::Lists", self.folder.join("lists")),
            ("Dir::Cache", self.folder.clone()),
            // The folders are not those of apt's own user.
            ("APT::Sandbox::User", PathBuf::from("root")),
            ("Acquire::Languages", PathBuf::from("none")),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", PathBuf::from("false")),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        command.stdin(Stdio::null());
        command
    }

    /// The packages that the suite's kernel is made of.
    fn parts(&self) -> Result<Vec<String>> {
        let (mut parts, mut open) = (BTreeSet::new(), vec![META.to_owned()]);
        while let Some(package) = open.pop() {
            let text = said(self.command("apt-cache").args(["depends", "--important", &package]))?;
            open.extend(depended(&text).filter(|name| parts.insert((*name).to_owned())).map(str::to_owned));
        }
        Ok(parts.into_iter().collect())
    }

    fn version(&self, package: &str) -> Result<String> {
        let text = said(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        Ok(version.with_context(|| format!("{package} has no version"))?.to_owned())
    }
}

/// The parts of a kernel that a package depends on, in the words of `apt-cache depends`.
fn depended(text: &str) -> impl Iterator<Item = &str> {
    let names = text.lines().filter_map(|line| line.trim_start().strip_prefix("Depends: "));
    names.filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
}

/// The archive of Debian that this machine uses.
fn mirror() -> Result<String> {
    if let Some(mirror) = std::env::var("BALANCING_DEBIAN_MIRROR").ok().filter(|mirror| !mirror.is_empty()) {
        return Ok(mirror);
    }
    let format = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"];
    let text = said(Command::new("apt-get").args(format)).unwrap_or_default();
    // Security updates have an archive of their own.
    let mirror = text.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    ensure!(
        mirror.is_some() && Path::new(KEYS).is_file(),
        "this machine's apt knows no archive of Debian: set BALANCING_DEBIAN_MIRROR to the address of one, and install debian-archive-keyring"
    );
    Ok(mirror.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_in_parts_is_found_whole() {
        let text = "linux-image-7.2-amd64\n |Depends: dracut\n  Depends: initramfs-tools\n  Depends: linux-base-7.2-amd64\n  Depends: linux-binary-7.2-amd64\n  Depends: linux-modules-7.2-amd64\n";
        assert_eq!(depended(text).collect::<Vec<_>>(), ["linux-binary-7.2-amd64", "linux-modules-7.2-amd64"]);
        let meta = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(depended(meta).collect::<Vec<_>>(), ["linux-image-6.1.0-56-amd64"]);
    }
}
