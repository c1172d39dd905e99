//! Workspaces that grow beyond their limit.

use crate::lab::{BRANCH, Lab};
use factory_core::inbox::EngineExit;

const LIMIT: u64 = 64 << 20;

/// An engine that commits, leaves something uncommitted, fills the disk, and does not go.
fn engine(fills: &str) -> String {
    format!(
        "trap '' TERM; echo done > done.txt; git add done.txt; git commit -qm Done
         echo half > half.txt; {fills}; while :; do sleep 1; done"
    )
}

/// Runs it to the end that it is given; no time is left for it to end by itself.
async fn is_stopped(name: &str, fills: &str) {
    let Some(mut lab) = Lab::new(name) else {
        return;
    };
    lab.file.disk_bytes = LIMIT;
    lab.engine(&engine(fills), Some("echo it is not resumed"));
    let done = lab.run().await;
    assert_eq!(done.code, 0, "{}", done.log);
    let end = lab.gateway.end();
    assert_eq!(end.exit, EngineExit::OutOfDisk, "{}", done.log);
    assert!(!done.log.contains("after SIGTERM"), "{}", done.log);
    // What it committed is pushed, and nothing that it did not commit.
    let pushed = lab.origin(&format!("log --name-only --format=%s {BRANCH} ^main"));
    assert_eq!(pushed, "Done\n\ndone.txt");
    let half = lab.origin("show refs/factory/checkpoint:work/half.txt");
    assert_eq!(half, "half");
}

#[tokio::test]
async fn one_file_beyond_the_limit_ends_the_run() {
    is_stopped("disk-file", "head -c 80M /dev/zero > big").await;
}

#[tokio::test]
async fn many_files_beyond_the_limit_end_the_run() {
    let fills = "mkdir d; head -c 400K /dev/zero > d/0; for i in {1..200}; do cp d/0 d/$i; done";
    is_stopped("disk-files", fills).await;
}

#[tokio::test]
async fn a_file_without_a_name_counts_while_it_is_open() {
    let fills = "exec 3> big; rm big; head -c 80M /dev/zero >&3";
    is_stopped("disk-deleted", fills).await;
}

#[tokio::test]
async fn holes_and_what_others_write_do_not_count() {
    let Some(mut lab) = Lab::new("disk-holes") else {
        return;
    };
    lab.file.disk_bytes = LIMIT;
    // Enough is written elsewhere for several counts.
    let elsewhere = lab.path("elsewhere");
    lab.engine(
        &format!(
            "truncate -s 10G holes; head -c 30M /dev/zero > some; echo '*' > .gitignore
             for i in 1 2 3; do head -c 80M /dev/zero > {0}; sleep 1; rm {0}; done; echo well",
            elsewhere.display()
        ),
        None,
    );
    let done = lab.run().await;
    assert_eq!(done.code, 0, "{}", done.log);
    assert_eq!(lab.gateway.end().exit, EngineExit::Code(0), "{}", done.log);
    assert_eq!(lab.gateway.end().last_output, "well");
}

#[tokio::test]
async fn what_git_ignores_counts() {
    let fills = "echo big > .git/info/exclude; head -c 80M /dev/zero > big";
    is_stopped("disk-ignored", fills).await;
}

#[tokio::test]
async fn a_check_that_fills_the_disk_is_red_and_says_why() {
    let Some(mut lab) = Lab::new("disk-check") else {
        return;
    };
    lab.file.disk_bytes = LIMIT;
    lab.checks(&[
        "trap '' TERM; echo begun; head -c 80M /dev/zero > big; while :; do sleep 1; done",
    ]);
    assert_eq!(lab.run().await.code, 1);
    let end = lab.gateway.end();
    assert_eq!(end.exit, EngineExit::OutOfDisk);
    let (begun, why) = ("\nbegun\n", "its limit (limits.disk)]");
    assert!(
        end.last_output.contains(begun) && end.last_output.ends_with(why),
        "{}",
        end.last_output
    );
}
