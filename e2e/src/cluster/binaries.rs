//! Where the programs of a control plane are: what `KUBEBUILDER_ASSETS` names, else what `cargo xtask test` has built
//! from the pinned Go modules into a cache outside the tree.
//!
//! The tests and xtask share this file, so that the one finds what the other has built.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Where someone else's control plane is: a folder with `etcd`, `kube-apiserver` and `kubectl`.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// A Go module of this folder whose tools are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its folder below `e2e/`.
    pub folder: &'static str,
    /// What is built of it: package, and name of the program.
    pub programs: &'static [(&'static str, &'static str)],
    /// The module whose version the programs give as theirs.
    pub versioned: &'static str,
}

/// The control plane. `etcd` comes first: it needs a minute less than the others and tells early that something is wrong.
pub const CONTROL_PLANE: Module = Module {
    folder: "control-plane",
    programs: &[
        ("go.etcd.io/etcd/server/v3", "etcd"),
        ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
        ("k8s.io/kubernetes/cmd/kube-controller-manager", "kube-controller-manager"),
        ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    ],
    versioned: "k8s.io/kubernetes",
};

/// Helm has a module of its own: in one with Kubernetes it would lift the libraries under the API server.
pub const HELM: Module = Module {
    folder: "helm",
    programs: &[("helm.sh/helm/v3/cmd/helm", "helm")],
    versioned: "helm.sh/helm/v3",
};

/// All of them.
pub const MODULES: [Module; 2] = [CONTROL_PLANE, HELM];

impl Module {
    /// The folder of its `go.mod`.
    #[must_use]
    pub fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e").join(self.folder)
    }

    /// Where its programs are or will be: `<cache>/balancing/<module>/<digest of go.mod and go.sum>`.
    ///
    /// # Errors
    /// The module's files cannot be read, or there is no home for a cache.
    pub fn cache(&self) -> Result<PathBuf> {
        let mut digest = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.source().join(file);
            digest.update(fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?);
        }
        let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(caches()?.join("balancing").join(self.folder).join(digest))
    }

    /// The version of the module that gives the programs theirs, as its `go.mod` pins it.
    ///
    /// # Errors
    /// It is not there.
    pub fn version(&self) -> Result<String> {
        let path = self.source().join("go.mod");
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        version_in(&text, self.versioned)
            .with_context(|| format!("{} does not require {}", path.display(), self.versioned))
    }

    /// Those of its programs that are in no folder that is used.
    ///
    /// # Errors
    /// As [`Self::cache`].
    pub fn missing(&self) -> Result<Vec<&'static str>> {
        let names = self.programs.iter().map(|(_, name)| *name);
        let mut missing = Vec::new();
        for name in names {
            if found(self, name)?.is_none() {
                missing.push(name);
            }
        }
        Ok(missing)
    }
}

/// `require PATH VERSION`, alone or in a block.
fn version_in(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next() == Some(module)).then(|| words.next().map(str::to_owned))?
    })
}

fn caches() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("XDG_CACHE_HOME").filter(|f| Path::new(f).is_absolute()) {
        return Ok(folder.into());
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty());
    Ok(PathBuf::from(home.context("neither XDG_CACHE_HOME nor HOME is set: there is no place for a cache")?)
        .join(".cache"))
}

/// A program of a module: that of `KUBEBUILDER_ASSETS` comes first.
fn found(module: &Module, name: &str) -> Result<Option<PathBuf>> {
    let assets = env::var_os(ASSETS).map(|folder| Path::new(&folder).join(name));
    let built = module.cache()?.join(name);
    Ok(assets.into_iter().chain([built]).find(|path| path.is_file()))
}

/// Where a program is.
///
/// # Errors
/// It was not built, or no module has such a program.
pub fn program(name: &str) -> Result<PathBuf> {
    for module in MODULES {
        if module.programs.iter().any(|(_, n)| *n == name) {
            return found(&module, name)?.with_context(|| {
                format!(
                    "{name} was not built: `cargo xtask setup` does so, which takes Go (https://go.dev/dl)"
                )
            });
        }
    }
    bail!("no module has a program {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_requirement_is_found() {
        let text = "module x\n\nrequire a.b/c v1.2.3\n\nrequire (\n\tk8s.io/kubernetes v1.36.2\n\td v0.1.0 // indirect\n)\n";
        assert_eq!(version_in(text, "k8s.io/kubernetes").as_deref(), Some("v1.36.2"));
        assert_eq!(version_in(text, "a.b/c").as_deref(), Some("v1.2.3"));
        assert_eq!(version_in(text, "a.b"), None);
    }

    #[test]
    fn every_module_pins_its_version_and_names_its_programs_as_tools() {
        for module in MODULES {
            assert!(module.version().unwrap().starts_with('v'), "{module:?}");
            let text = fs::read_to_string(module.source().join("go.mod")).unwrap();
            for (package, _) in module.programs {
                assert!(text.contains(package), "{package} is no tool of {}", module.folder);
            }
        }
    }
}
