//! `cargo xtask images`: container images as tars that `docker load`, `ctr images import` and `kind load` read: one
//! static program each on an empty root. No daemon is asked; the same sources give the same bytes.

mod archive;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde_json::json;

use self::archive::{Entry, Image};
use crate::{
    bpf,
    process::{cargo, run as execute},
};

/// The version of the workspace, which is the tag.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// An image, named as its program.
struct Product {
    name: &'static str,
    title: &'static str,
    /// Whose process it is where the pod says nothing.
    user: &'static str,
}

const PRODUCTS: [Product; 2] = [
    Product { name: "balancing-agent", title: "Balancing: the agent of a node", user: "0:0" },
    Product { name: "balancing-operator", title: "Balancing: the operator", user: "65532:65532" },
];

/// Builds the programs and writes `target/images/NAME.tar`; with `debug` as tests build them, which is quicker.
pub(crate) fn run(debug: bool) -> Result<()> {
    let root = bpf::workspace()?;
    let folder = root.join("target/images");
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let target = target()?;
    build(&root, &target, debug)?;
    let profile = if debug { "debug" } else { "release" };
    for product in &PRODUCTS {
        // A folder of its own below the target folder: with other flags than everything else is built with.
        let program = target_folder(&root).join(&target).join(profile).join(product.name);
        let path = folder.join(format!("{}.tar", product.name));
        let bytes = image(&root, product, &program)?.docker_archive()?;
        fs::write(&path, &bytes).with_context(|| format!("failed to write {}", path.display()))?;
        eprintln!("images: {} ({}:{VERSION}, {} KiB)", path.display(), product.name, bytes.len() / 1024);
    }
    Ok(())
}

/// Where static programs are built: beside the others, which are built with other flags.
pub(crate) fn target_folder(root: &Path) -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into).join("static")
}

/// The target that is built for: glibc's, since it needs no component of rustup's.
pub(crate) fn target() -> Result<String> {
    let arch = std::env::consts::ARCH;
    anyhow::ensure!(matches!(arch, "x86_64" | "aarch64"), "no images are made for {arch}");
    Ok(format!("{arch}-unknown-linux-gnu"))
}

/// Linked statically: the root of the image has no library. With `--target`, flags leave build scripts and macros alone.
fn build(root: &Path, target: &str, debug: bool) -> Result<()> {
    let mut command = cargo(&["build", "--locked", "--target", target]);
    for product in &PRODUCTS {
        command.args(["--package", product.name]);
    }
    if !debug {
        command.arg("--release");
    }
    eprintln!("images: building static programs (a few minutes the first time)");
    execute(linked_statically(&mut command, root))
}

/// Makes cargo link statically what it builds with `--target`, into [`target_folder`].
pub(crate) fn linked_statically<'c>(command: &'c mut Command, root: &Path) -> &'c mut Command {
    let cargo_home = std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .unwrap_or_default();
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/src", root.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
    ];
    command
        .arg("--target-dir")
        .arg(target_folder(root))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS")
}

/// The image of a program.
fn image(root: &Path, product: &Product, program: &Path) -> Result<Image> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("failed to read {}", path.display()));
    let entries = vec![
        Entry::file("LICENSE", 0o644, read(&root.join("LICENSE"))?),
        Entry::file(product.name, 0o755, stripped(program)?),
    ];
    let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let config = json!({
        "Entrypoint": [format!("/{}", product.name)],
        "User": product.user,
        "WorkingDir": "/",
        "Env": ["PATH=/"],
        "Labels": {
            "org.opencontainers.image.title": product.title,
            "org.opencontainers.image.version": VERSION,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    });
    Ok(Image { name: format!("{}:{VERSION}", product.name), architecture, config, entries })
}

/// A program without the sections of debuggers; a debug build's are most of it. Symbols stay, for backtraces.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let slim = program.with_extension("stripped");
    let strip = Command::new("strip").args(["--strip-debug", "-o"]).arg(&slim).arg(program).status();
    let path = if strip.is_ok_and(|status| status.success()) { &slim } else { program };
    fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}
