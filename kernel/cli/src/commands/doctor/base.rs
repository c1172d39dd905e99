//! Where an image begins, and whether that can be had.

use super::{Condition, Line, Report, Repository};
use crate::{commands::image, failure::Class};
use bollard::Docker;
use factory_core::config::{Config, DEFAULT_BASE};
use factory_runtime::image::{BaseSource, ImageRequest, base_source};
use std::time::Duration;

/// What asking a registry for a base may take.
const REGISTRY_LIMIT: Duration = Duration::from_secs(10);

/// What the image is made of, and whether the repository itself makes its base.
pub(super) fn look_at_recipe(
    config: &Config,
    repository: Option<&Repository>,
    report: &mut Report,
) -> Result<(ImageRequest, bool), Line> {
    let failed = |error| Line::failed("image", error);
    let Some(repository) = repository else {
        let base = config.image.base.as_deref().unwrap_or(DEFAULT_BASE);
        return Ok((image::request(config, base).map_err(failed)?, false));
    };
    let wanted = image::wanted(config, &repository.user, &repository.tip).map_err(failed)?;
    for note in &wanted.base.notes {
        report
            .lines
            .push(Line::new("image base", Condition::Ok, note));
    }
    Ok((wanted.request, wanted.base.recipe.is_some()))
}

/// Where a build would begin.
pub(super) async fn look_at_base(
    client: &Docker,
    base: &str,
    report: &mut Report,
) -> Result<(), Line> {
    let source = base_source(client, base, REGISTRY_LIMIT).await;
    let source = source.map_err(|error| Line::failed("image base", error))?;
    let from = match source {
        BaseSource::Here => "is on this engine",
        BaseSource::Registry => "is in its registry",
        BaseSource::Packages => "will be made from Debian packages: no registry gave it",
        BaseSource::Nowhere(why) => {
            let detail = format!("{base} is not on this engine, and no registry gave it ({why})");
            return Err(Line::missing("image base", Class::Image, detail).mend(format!(
                "docker pull {base}; or set image.base to one that `docker images` lists; on a Debian host, \
                 debian:bookworm-slim can be made: sudo apt-get install mmdebstrap"
            )));
        }
    };
    report.ok("image base", format!("{base} {from}"));
    Ok(())
}
