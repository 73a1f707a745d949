//! Maps of another layout, which the programs of an earlier agent use until this agent's maps are filled.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::{HashMap, Map, MapData, MapError};
use balancing_datapath::CallerKey;

use super::{
    layout::POLICY_NAME_SIZE,
    store::{NameValue, StoreError},
    sys::{self, MAP_TYPE_HASH},
};

/// Exempts cgroups, the agent's own, from every policy that maps in these folders hold. Maps whose layout gives callers
/// another shape stay as they are.
///
/// # Errors
/// A map cannot be read, or there is no room for more callers.
pub(super) fn exempt(folders: &[PathBuf], cgroups: &BTreeSet<u64>) -> Result<(), StoreError> {
    let failed = |source| StoreError::Map { map: "callers", operation: "update", source };
    folders.iter().try_for_each(|folder| exempt_in(folder, cgroups).map_err(failed))
}

fn exempt_in(folder: &Path, cgroups: &BTreeSet<u64>) -> Result<(), MapError> {
    let callers = pinned(folder, "callers", size_of::<CallerKey>() as u32, 4);
    let names = pinned(folder, "policy_names", 4, POLICY_NAME_SIZE);
    let (Some(callers), Some(names)) = (callers, names) else { return Ok(()) };
    let mut callers: HashMap<_, CallerKey, u32> = map(callers)?.try_into()?;
    let names: HashMap<_, u32, NameValue> = map(names)?.try_into()?;
    for class in names.keys() {
        let class = class?;
        for &cgroup in cgroups {
            callers.insert(CallerKey { cgroup, class, spare: 0 }, 1, 0)?;
        }
    }
    Ok(())
}

fn map(fd: OwnedFd) -> Result<Map, MapError> {
    MapData::from_fd(fd).map(Map::HashMap)
}

/// The hash map of that name, if it is pinned there and its keys and values have these sizes.
fn pinned(folder: &Path, name: &str, key: u32, value: u32) -> Option<OwnedFd> {
    let map = sys::obj_get(&folder.join(name)).ok()?;
    let shape = sys::map_info(map.as_fd()).ok()?;
    ((shape.map_type, shape.key, shape.value) == (MAP_TYPE_HASH, key, value)).then_some(map)
}
