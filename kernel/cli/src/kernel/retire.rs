//! The end of a factory on this machine, since another one goes on with it.

use super::tools::blocking;
use crate::failure::Failure;
use factory_core::container::ContainerSpec;
use factory_ledger::{places::Places, workspace};
use factory_runtime::Runtime;

/// Removes every container of the factory `home`, and the workspaces and
/// directories of its runs. What they saved stays in `door.git`. No kernel works
/// any more.
pub async fn retire<R: Runtime>(runtime: &R, places: &Places, home: &str) -> Result<(), Failure> {
    for container in runtime.list(home).await? {
        if let Some(run) = container.run() {
            runtime.remove(&ContainerSpec::name_for(home, run)).await?;
        }
    }
    let dirs = [places.workspaces(), places.runs()];
    blocking(move || {
        for dir in dirs {
            for entry in std::fs::read_dir(dir)? {
                workspace::remove(&entry?.path())?;
            }
        }
        Ok(())
    })
    .await
}
