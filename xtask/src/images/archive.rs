//! Images as docker-archives (<https://github.com/moby/docker-image-spec/blob/main/spec.md>): a tar with a manifest, a
//! configuration and one tar a layer. Times are zero and owners root, so that nothing but the content makes the bytes.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BLOCK: usize = 512;

/// A file of a tar.
pub(crate) struct Entry {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

impl Entry {
    /// A file with that path from the root, without a slash in front.
    pub(crate) fn file(path: &str, mode: u32, content: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode, content }
    }
}

/// An image of one layer.
pub(crate) struct Image {
    /// `NAME:TAG`.
    pub(crate) name: String,
    /// As Go calls it: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    /// What a container of it runs, and as whom.
    pub(crate) config: Value,
    /// Its files.
    pub(crate) entries: Vec<Entry>,
}

impl Image {
    /// The image as one file.
    pub(crate) fn docker_archive(&self) -> Result<Vec<u8>> {
        let layer = tar(&self.entries)?;
        let diff_id = digest(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask images"}],
        }))?;
        let (config_path, layer_path) = (format!("{}.json", digest(&config)), format!("{diff_id}.tar"));
        let manifest = serde_json::to_vec(&json!([{
            "Config": config_path,
            "RepoTags": [self.name],
            "Layers": [layer_path],
        }]))?;
        tar(&[
            Entry::file("manifest.json", 0o644, manifest),
            Entry::file(&config_path, 0o644, config),
            Entry::file(&layer_path, 0o644, layer),
        ])
    }
}

/// A tar (POSIX ustar) of these files.
fn tar(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(header(entry)?);
        bytes.extend(&entry.content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks are its end.
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    Ok(bytes)
}

fn header(entry: &Entry) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    ensure!(entry.path.len() < 100, "{} is too long for a tar", entry.path);
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, &entry.path);
    put(100, &format!("{:07o}", entry.mode));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", entry.content.len()));
    put(136, "00000000000");
    // The checksum is made with blanks in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(329, "0000000");
    put(337, "0000000");
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    fn image() -> Image {
        Image {
            name: "x:1".to_owned(),
            architecture: "amd64",
            config: json!({"Entrypoint": ["/x"]}),
            entries: vec![
                Entry::file("x", 0o755, b"program".to_vec()),
                Entry::file("empty", 0o644, Vec::new()),
            ],
        }
    }

    /// What the machine's tar makes of ours.
    fn listed(tar: &[u8], arguments: &[&str]) -> String {
        let mut child = Command::new("tar")
            .args(arguments)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        child.stdin.take().expect("stdin").write_all(tar).expect("read");
        let out = child.wait_with_output().expect("an end");
        assert!(out.status.success(), "{arguments:?}");
        String::from_utf8(out.stdout).expect("text")
    }

    #[test]
    fn tar_reads_what_is_written() {
        let layer = tar(&image().entries).expect("a tar");
        let lines = listed(&layer, &["tvf", "-", "--numeric-owner"]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = lines.lines().map(words).collect();
        assert_eq!(lines[0], ["-rwxr-xr-x", "0/0", "7", "1970-01-01", "00:00", "x"]);
        assert_eq!(lines[1], ["-rw-r--r--", "0/0", "0", "1970-01-01", "00:00", "empty"]);
        assert_eq!(listed(&layer, &["xOf", "-", "x"]), "program");
    }

    #[test]
    fn an_image_names_what_it_holds_by_digest() {
        let bytes = image().docker_archive().expect("an image");
        let read = |path: &str| listed(&bytes, &["xOf", "-", path]);
        let manifest: Value = serde_json::from_str(&read("manifest.json")).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"], json!(["x:1"]));
        let config = read(manifest[0]["Config"].as_str().expect("a path"));
        assert_eq!(manifest[0]["Config"], json!(format!("{}.json", digest(config.as_bytes()))));
        let layer = read(manifest[0]["Layers"][0].as_str().expect("a path"));
        let config: Value = serde_json::from_str(&config).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"][0], json!(format!("sha256:{}", digest(layer.as_bytes()))));
        assert_eq!(config["config"]["Entrypoint"], json!(["/x"]));
        assert_eq!(bytes, image().docker_archive().expect("an image"), "the same again");
    }
}
