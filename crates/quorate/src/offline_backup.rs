//! `quorate backup --data-dir`: copies the newest certified state out of the data directories of stopped replicas.

use crate::backup_files::{PAGES, SUMMARY};
use crate::cluster_arguments::ClusterArguments;
use crate::failure::Failure;
use crate::new_backup::{Contents, Unfinished};
use crate::output;
use quorate_daemon::{CertifiedState, DirectoryError, NoCertifiedState};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn run(
    data_dirs: &[PathBuf],
    arguments: &ClusterArguments,
    to: &Path,
) -> Result<ExitCode, Failure> {
    let config = arguments.config()?;
    let cluster_text = arguments.text()?;
    data_dirs.iter().try_for_each(|path| check(path, to))?;
    let unfinished = Unfinished::begin(to)?;
    let found = CertifiedState::find(data_dirs, &config).map_err(failure)?;
    found.remarks.iter().for_each(|remark| output::note(&format!("quorate: {remark}")));
    let contents = Contents {
        config: &config,
        cluster_text: &cluster_text,
        certificate: &found.certificate,
        state: &found.state,
        replica: found.replica,
    };
    let summary = unfinished.write(&contents)?;
    unfinished.finish(to)?;
    let newer = found.newer.iter().map(|newer| format!("It is not the newest: {newer}.\n"));
    output::print(format!(
        "{}, verified against its certificate, which replica {} had\n{}{}\n",
        summary.sentence(to),
        found.replica,
        newer.collect::<String>(),
        found.beyond
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses what is no data directory at a glance.
fn check(path: &Path, to: &Path) -> Result<(), Failure> {
    let path_named = path.display();
    if !path.is_dir() {
        return Err(Failure::usage(format!(
            "--data-dir {path_named}: there is no such directory; name what replica-N.toml has in data_dir"
        )));
    }
    if path.join(SUMMARY).is_file() {
        return Err(Failure::usage(format!(
            "--data-dir {path_named}: that is a backup already; `quorate restore --from {path_named}` makes a cluster from it"
        )));
    }
    let is_inside = |path: &Path| {
        let above = std::path::absolute(to).unwrap_or_default();
        let there = above.ancestors().find_map(|above| above.canonicalize().ok());
        there.is_some_and(|there| there.starts_with(path))
    };
    if path.join(PAGES).is_dir() && path.canonicalize().is_ok_and(|path| is_inside(&path)) {
        return Err(Failure::usage(format!(
            "--to {}: it lies in {path_named}, of which nothing is changed; name another --to",
            to.display()
        )));
    }
    Ok(())
}

fn failure(error: NoCertifiedState) -> Failure {
    match error {
        NoCertifiedState::Directory(error @ DirectoryError::Locked { .. }) => Failure::usage(format!(
            "{error}. A cluster that orders is backed up while it runs, without --data-dir"
        )),
        NoCertifiedState::Directory(error) => error.into(),
        error @ NoCertifiedState::NoData { .. } => Failure::usage(error),
        error => error.into(),
    }
}
