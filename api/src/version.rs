//! The plugin's document about versions: `version -o json`.

use serde::{Deserialize, Serialize};

/// Kind of [`Versions`].
pub const VERSION: &str = "Version";

/// Versions of what works together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// This program.
    pub client: ClientVersion,
    /// The agents that were asked; none with `--client`.
    pub agents: Vec<AgentVersion>,
}

/// The version of this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientVersion {
    /// As it was released.
    pub version: String,
}

/// The version of an agent, and of what it works with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentVersion {
    /// Name of its node.
    pub node: String,
    /// As it was released.
    pub version: String,
    /// Release of the node's kernel.
    pub kernel: String,
    /// Version of the layout of its maps.
    pub layout_version: u32,
}
