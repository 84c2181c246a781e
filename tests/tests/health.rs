//! What `quorate status` says of clusters of real processes is so.

use quorate_tests::cluster::{Cluster, assert_holds, wait_for};
use quorate_tests::recorder::Recorder;
use quorate_types::ReplicaId;
use std::time::Duration;

/// Waits until the first line begins so, and returns the rest. The exit code belongs to it.
fn wait_for_status(cluster: &Cluster, code: i32, beginning: &str) -> String {
    let said = wait_for(beginning, || {
        let (found, said) = cluster.status();
        said.starts_with(beginning).then_some((found, said))
    });
    assert_eq!(said.0, Some(code), "{}", said.1);
    said.1
}

#[test]
fn a_cluster_that_works_is_not_told_to_restart_and_one_that_cannot_is_not_called_good() {
    const GOOD: &str =
        "Good: the cluster takes writes and tolerates 1 more fault; all 4 replicas vote in view";
    let mut cluster = Cluster::start(4);
    wait_for_status(&cluster, 0, GOOD);
    // Nobody misses the primary of a cluster in which nothing is to be ordered.
    cluster.kill(0);
    let said =
        wait_for_status(&cluster, 4, "Degraded: the cluster can take writes after a change of its view");
    assert!(said.contains("- Primary 0 of view 0 is not at work") && !said.contains("restart"), "{said}");
    cluster.assert_works();
    let degraded =
        "Degraded: the cluster takes writes and tolerates no more faults; 3 of 4 replicas vote in view 1";
    wait_for_status(&cluster, 4, degraded);
    cluster.start_replica(0);
    wait_for_status(&cluster, 0, GOOD);

    cluster.kill(3);
    cluster.lose_disk(3);
    let (code, said) = cluster.command(3, "format", &[]);
    assert_eq!(code, Some(0), "{said}");
    cluster.start_replica(3);
    let said = wait_for_status(&cluster, 4, degraded);
    assert!(said.contains("- Replica 3 is a learner"), "{said}");
    cluster.kill(2);
    wait_for_status(
        &cluster,
        1,
        "No progress: 2 of 4 replicas can vote and a quorum is 3; start those that do not",
    );
    let recorder = Recorder::start(&cluster, 1, ReplicaId(0));
    assert_holds("nothing is ordered", Duration::from_secs(1), || recorder.completed() == 0);
    cluster.start_replica(2);
    wait_for("operations flow again", || (recorder.completed() > 5).then_some(()));
    let _ = recorder.finish();
    wait_for_status(&cluster, 4, degraded.split(';').next().expect("it has parts"));
}

/// The primary of the next view is down, too: while it is waited for, nobody works in any view.
#[test]
fn a_view_change_under_way_is_no_progress_that_ends_by_itself() {
    let mut cluster = Cluster::start(7);
    wait_for_status(&cluster, 0, "Good: the cluster takes writes and tolerates 2 more faults");
    let recorder = Recorder::start(&cluster, 1, ReplicaId(3));
    wait_for("it is written to", || (recorder.completed() > 5).then_some(()));
    let view = cluster.report(3, false)["view"].as_u64().expect("a number");
    for primary in [view % 7, (view + 1) % 7] {
        cluster.kill(usize::try_from(primary).expect("a replica"));
    }
    let said = wait_for_status(&cluster, 1, "No progress: the view is being changed");
    assert!(said.contains("have come to view") && said.contains("ends by itself"), "{said}");
    wait_for_status(
        &cluster,
        4,
        "Degraded: the cluster takes writes and tolerates no more faults; 5 of 7 replicas",
    );
    let completed = recorder.completed();
    wait_for("operations flow again", || (recorder.completed() > completed + 5).then_some(()));
    let _ = recorder.finish();
}
