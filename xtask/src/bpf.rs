//! `cargo xtask bpf [--check]`: builds the eBPF objects reproducibly, or shows that the committed ones are what the
//! sources give.
//!
//! Besides cargo this takes `bpf-linker`, which loads libLLVM from the rustc in use, and the source of `core` of exactly
//! that rustc. From it a sysroot with `core` alone is made for the BPF target by two calls of rustc: `-Zbuild-std` would
//! resolve all of std's dependencies from the registry.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

const TARGET: &str = "bpfel-unknown-none";
/// 0.10.x is the last line that loads libLLVM from the rustc in use; later ones need an LLVM to link with.
const LINKER_VERSION: &str = "0.10.4";
/// The compiler that the committed object was made with. Another may give other bytes.
const RUSTC_RELEASE: &str = "1.95.0";

/// An object that is committed.
struct Artifact {
    package: &'static str,
    binary: &'static str,
    /// What lies in these folders it is made from.
    sources: &'static [&'static str],
    object: &'static str,
    digest: &'static str,
}

const ARTIFACTS: [Artifact; 2] = [
    Artifact {
        package: "balancing-agent-ebpf",
        binary: "balancing",
        sources: &["agent-ebpf", "datapath"],
        object: "agent-ebpf/balancing.bpf.o",
        digest: "agent-ebpf/balancing.bpf.digest",
    },
    Artifact {
        package: "balancing-bench-ebpf",
        binary: "ideal",
        sources: &["bench/ebpf"],
        object: "bench/ebpf/ideal.bpf.o",
        digest: "bench/ebpf/ideal.bpf.digest",
    },
];

/// Debian's package of the compiler's source, for machines where rustup cannot download it.
const DEBIAN_SOURCE: &str = "rust-src_1.95.0+dfsg1-2~bpo13+1_all.deb";
const DEBIAN_SOURCE_SHA256: &str = "7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b";

/// Builds the objects, or with `check` compares them with the committed ones.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = workspace()?;
    ARTIFACTS
        .iter()
        .try_for_each(|artifact| if check { compare(&root, artifact) } else { write(&root, artifact) })
}

fn write(root: &Path, artifact: &Artifact) -> Result<()> {
    let slim = build(root, artifact)?;
    fs::write(root.join(artifact.object), &slim)?;
    fs::write(root.join(artifact.digest), digest(root, artifact)?)?;
    eprintln!("bpf: wrote {} ({} bytes)", artifact.object, slim.len());
    Ok(())
}

fn compare(root: &Path, artifact: &Artifact) -> Result<()> {
    let Artifact { object, .. } = artifact;
    check_digest(root, artifact)?;
    let rustc = Rustc::find()?;
    if rustc.release != RUSTC_RELEASE {
        eprintln!(
            "bpf: sources, lock and {object} agree by digest; not rebuilt, since rustc {} is here and the object was made by {RUSTC_RELEASE}",
            rustc.release
        );
        return Ok(());
    }
    let slim = build(root, artifact)?;
    let committed = fs::read(root.join(object)).with_context(|| format!("failed to read {object}"))?;
    if committed != slim {
        let rebuilt = root.join("target/bpf/rebuilt.o");
        fs::write(&rebuilt, &slim)?;
        bail!(
            "{object} is not what the sources give (see {}): run `cargo xtask bpf` and commit it",
            rebuilt.display()
        );
    }
    eprintln!("bpf: {object} is what the sources give, byte for byte ({} bytes)", slim.len());
    Ok(())
}

/// Fetches what building the object takes: bpf-linker and the source of `core`. Does nothing where both are there.
pub(crate) fn ensure_tools() -> Result<()> {
    ensure_linker()?;
    let rustc = Rustc::find()?;
    core_source(&rustc).map(drop)
}

/// The folder of the workspace.
pub(crate) fn workspace() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the workspace")?.canonicalize()?)
}

/// Where tools and what is made from them are kept, outside the tree.
fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(env::temp_dir);
    base.join("balancing")
}

fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("failed to run {command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn execute(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

struct Rustc {
    program: OsString,
    release: String,
    commit: String,
    sysroot: PathBuf,
}

impl Rustc {
    fn find() -> Result<Self> {
        let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = output(Command::new(&program).arg("-vV"))?;
        let field = |key: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|v| v.trim().to_owned())
                .unwrap_or_default()
        };
        let sysroot = PathBuf::from(output(Command::new(&program).args(["--print", "sysroot"]))?);
        Ok(Self { release: field("release:"), commit: field("commit-hash:"), sysroot, program })
    }
}

// ---------------------------------------------------------------- tools

fn linker_path() -> PathBuf {
    cache().join("tools/bin")
}

fn ensure_linker() -> Result<()> {
    let version = |program: &Path| output(Command::new(program).arg("--version")).ok();
    let wanted = |v: String| v.split_whitespace().last() == Some(LINKER_VERSION);
    if version(&linker_path().join("bpf-linker")).is_some_and(wanted) {
        return Ok(());
    }
    eprintln!("bpf: installing bpf-linker {LINKER_VERSION} (about two minutes, once)");
    execute(
        Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["install", "--quiet", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--root"])
            .arg(cache().join("tools"))
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
            .env_remove("CARGO_TARGET_DIR"),
    )
}

/// The source of `core` of this rustc: from rustup's component, fetched if need be, else from Debian's package.
fn core_source(rustc: &Rustc) -> Result<PathBuf> {
    let has_core = |dir: &Path| dir.join("library/core/src/lib.rs").exists();
    let component = rustc.sysroot.join("lib/rustlib/src/rust");
    let unpacked = cache().join(format!("rust-src-{}", rustc.release));
    if let Some(given) = env::var_os("BPF_RUST_SRC").map(PathBuf::from).filter(|dir| has_core(dir)) {
        return Ok(given);
    }
    if has_core(&component) {
        return Ok(component);
    }
    if has_core(&unpacked) {
        return Ok(unpacked);
    }
    let added = Command::new("rustup").args(["component", "add", "rust-src"]).status();
    if added.is_ok_and(|status| status.success()) && has_core(&component) {
        return Ok(component);
    }
    unpack_debian_source(rustc, &unpacked)?;
    Ok(unpacked)
}

fn unpack_debian_source(rustc: &Rustc, to: &Path) -> Result<()> {
    ensure!(
        rustc.release == RUSTC_RELEASE,
        "no source of core for rustc {}: run `rustup component add rust-src`",
        rustc.release
    );
    let mirror = debian_mirror().context("no source of core: neither rustup nor an apt archive is there")?;
    let dir = cache().join("download");
    fs::create_dir_all(&dir)?;
    let package = dir.join(DEBIAN_SOURCE);
    execute(
        Command::new("curl")
            .args(["-fsSL", "-o"])
            .arg(&package)
            .arg(format!("{mirror}/pool/main/r/rustc/{DEBIAN_SOURCE}")),
    )?;
    let sum = hex(&Sha256::digest(fs::read(&package)?));
    ensure!(
        sum == DEBIAN_SOURCE_SHA256,
        "{DEBIAN_SOURCE} has the digest {sum}, expected {DEBIAN_SOURCE_SHA256}"
    );
    let tree = format!("./usr/src/rustc-{}", rustc.release);
    let partial = to.with_extension("partial");
    fs::create_dir_all(&partial)?;
    let script = format!(
        "dpkg --fsys-tarfile '{}' | tar x -C '{}' --strip-components=4 {tree}/library/core {tree}/library/stdarch/crates/core_arch/src {tree}/library/portable-simd/crates/core_simd/src",
        package.display(),
        partial.display()
    );
    execute(Command::new("sh").args(["-c", &script]))?;
    fs::rename(&partial, to)?;
    Ok(())
}

/// The archive that apt on this machine is set up with.
fn debian_mirror() -> Option<String> {
    ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"].iter().find_map(|file| {
        fs::read_to_string(file).ok()?.lines().find_map(|line| {
            let uri = line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb "))?;
            let uri = uri.split_whitespace().find(|word| word.contains("://"))?;
            Some(uri.trim_end_matches('/').to_owned())
        })
    })
}

// ---------------------------------------------------------------- build

fn build(root: &Path, artifact: &Artifact) -> Result<Vec<u8>> {
    ensure_linker()?;
    let rustc = Rustc::find()?;
    let sysroot = bpf_sysroot(&rustc)?;
    let prepend = |name: &str, first: PathBuf| -> Result<OsString> {
        let mut all = vec![first];
        all.extend(env::var_os(name).iter().flat_map(env::split_paths));
        Ok(env::join_paths(all)?)
    };
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"));
    let mut flags = vec![
        format!("--sysroot={}", sysroot.display()),
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Loops stay loops: unrolled in full they triple the programs.
        "-Cllvm-args=--unroll-full-max-count=0".to_owned(),
        "-Clink-arg=--llvm-args=--unroll-full-max-count=0".to_owned(),
        // The same paths in the object wherever it is built.
        format!("--remap-path-prefix={}=/src", root.display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home.display()),
    ];
    // The folder of a registry is named by its host, which is a mirror's on some machines. The last match counts.
    let registries = fs::read_dir(cargo_home.join("registry/src")).into_iter().flatten().flatten();
    flags.extend(
        registries.map(|folder| format!("--remap-path-prefix={}=/registry", folder.path().display())),
    );
    let flags = flags.join("\x1f");
    let target_dir = root.join("target/bpf");
    execute(
        Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .current_dir(root)
            .args([
                "build",
                "--quiet",
                "--locked",
                "--package",
                artifact.package,
                "--profile",
                "bpf",
                "--target",
                TARGET,
            ])
            .arg("--target-dir")
            .arg(&target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env_remove("RUSTFLAGS")
            // feature(asm_experimental_arch), for these two crates alone
            .env("RUSTC_BOOTSTRAP", format!("aya_ebpf,{}", artifact.binary))
            // rustup's proxies set this; bpf-linker finds the compiler's libLLVM by it however cargo was started.
            .env("LD_LIBRARY_PATH", prepend("LD_LIBRARY_PATH", rustc.sysroot.join("lib"))?)
            .env("PATH", prepend("PATH", linker_path())?),
    )?;
    strip(&fs::read(target_dir.join(TARGET).join("bpf").join(artifact.binary))?)
}

/// A sysroot that holds `core` for the BPF target, made once per rustc.
fn bpf_sysroot(rustc: &Rustc) -> Result<PathBuf> {
    let dir =
        cache().join(format!("bpf-sysroot-{}-{}", rustc.release, rustc.commit.get(..9).unwrap_or("unknown")));
    if dir.exists() {
        return Ok(dir);
    }
    let source = core_source(rustc)?.canonicalize()?;
    eprintln!("bpf: building core for {TARGET} (once)");
    let partial = dir.with_extension("partial");
    let lib = partial.join("lib/rustlib").join(TARGET).join("lib");
    fs::create_dir_all(&lib)?;
    let compile = |name: &str| {
        let mut c = Command::new(&rustc.program);
        c.env("RUSTC_BOOTSTRAP", "1")
            .args(["--edition=2024", "--crate-type=rlib", "--target", TARGET, "--crate-name", name])
            .args([
                "-Copt-level=3",
                "-Cpanic=abort",
                "-Ccodegen-units=1",
                "-Cembed-bitcode=yes",
                "-Cdebuginfo=2",
            ])
            .args(["-Cmetadata=bpf", "-Zforce-unstable-if-unmarked", "--cap-lints=allow"])
            .arg(format!("--remap-path-prefix={}=/rustc/{}", source.display(), rustc.commit))
            .arg("--out-dir")
            .arg(&lib);
        c
    };
    execute(compile("core").arg(source.join("library/core/src/lib.rs")))?;
    // BPF has no use for compiler_builtins (aya-ebpf brings memcpy and its kin), but every crate names it.
    let builtins = partial.join("compiler_builtins.rs");
    fs::write(&builtins, "#![feature(compiler_builtins)]\n#![no_std]\n#![compiler_builtins]\n")?;
    execute(compile("compiler_builtins").arg("--sysroot").arg(&partial).arg(&builtins))?;
    fs::rename(&partial, &dir)?;
    Ok(dir)
}

/// Removes DWARF (85 % of the object) and its relocations; keeps `.BTF` and `.BTF.ext`.
fn strip(data: &[u8]) -> Result<Vec<u8>> {
    use object::build::elf::{Builder, SectionData};
    let failed = |e: object::build::Error| anyhow::anyhow!("failed to read the object: {e}");
    let mut builder = Builder::read(data).map_err(failed)?;
    for section in builder.sections.iter_mut() {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    let mut panics = Vec::new();
    for symbol in builder.symbols.iter_mut() {
        symbol.delete = symbol.section.is_some_and(|section| builder.sections.get(section).delete);
        let name = String::from_utf8_lossy(symbol.name.as_slice()).into_owned();
        if name.contains("panicking") || name.ends_with("_failed") {
            panics.push(name);
        }
    }
    // The verifier would only say "last insn is not an exit or jmp".
    ensure!(panics.is_empty(), "the object can panic: {panics:?}");
    builder.delete_orphans();
    if !builder.sections.iter().any(|s| matches!(s.data, SectionData::SectionString)) {
        // LLVM keeps the sections' names in .strtab; the writer wants a table of their own.
        let section = builder.sections.add();
        section.name = b".shstrtab".as_slice().into();
        section.sh_type = object::elf::SHT_STRTAB;
        section.sh_addralign = 1;
        section.data = SectionData::SectionString;
    }
    let mut out = Vec::new();
    builder.write(&mut out).map_err(failed)?;
    Ok(out)
}

// ---------------------------------------------------------------- digest

/// Does the committed object belong to these sources? Needs no tool.
fn check_digest(root: &Path, artifact: &Artifact) -> Result<()> {
    let Artifact { object, digest: file, .. } = artifact;
    let committed = fs::read_to_string(root.join(file)).with_context(|| format!("failed to read {file}"))?;
    let now = digest(root, artifact)?;
    ensure!(
        committed == now,
        "{file} does not match the sources: run `cargo xtask bpf` and commit {object} and {file}\ncommitted:\n{committed}now:\n{now}"
    );
    Ok(())
}

/// What the object was made from, and the object, one line each.
fn digest(root: &Path, artifact: &Artifact) -> Result<String> {
    let mut sources = Sha256::new();
    for dir in artifact.sources {
        for (name, content) in sources_below(root, dir)? {
            sources.update(format!("{name}\0{}\0", content.len()));
            sources.update(content);
        }
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let profile = section(&manifest, "[profile.bpf]");
    let lock = locked_dependencies(&fs::read_to_string(root.join("Cargo.lock"))?);
    let mut text = String::new();
    writeln!(text, "sources {}", hex(&sources.finalize()))?;
    writeln!(text, "profile {}", hex(&Sha256::digest(profile)))?;
    writeln!(text, "lock {}", hex(&Sha256::digest(lock)))?;
    writeln!(text, "rustc {RUSTC_RELEASE}")?;
    writeln!(text, "bpf-linker {LINKER_VERSION}")?;
    writeln!(text, "object {}", hex(&Sha256::digest(fs::read(root.join(artifact.object))?)))?;
    Ok(text)
}

fn sources_below(root: &Path, dir: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.join(dir)];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "toml") {
                let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
                found.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

/// A section of a TOML file, from its header to the next.
fn section<'a>(toml: &'a str, header: &str) -> &'a str {
    let Some(start) = toml.find(header) else { return "" };
    let rest = &toml[start..];
    rest[1..].find("\n[").map_or(rest, |end| &rest[..=end])
}

/// The entries of the lock file that the object depends on: others may change without it.
fn locked_dependencies(lock: &str) -> String {
    let mut packages = BTreeMap::<&str, Vec<&str>>::new();
    for block in lock.split("\n[[package]]\n").skip(1) {
        if let Some(name) = block.lines().find_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')) {
            packages.entry(name).or_default().push(block.trim());
        }
    }
    // Only what the BPF target compiles; build scripts and macros run on the host, but shape the code all the same.
    let mut wanted = vec!["aya-ebpf"];
    let mut seen = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        let Some(blocks) = packages.get(name).filter(|_| !seen.contains_key(name)) else { continue };
        seen.insert(name, blocks.join("\n"));
        for line in blocks.iter().flat_map(|b| b.lines()).filter_map(|l| l.strip_prefix(" \"")) {
            wanted.extend(line.split([' ', '"']).next());
        }
    }
    seen.into_values().collect::<Vec<_>>().join("\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
