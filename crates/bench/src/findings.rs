//! From what was measured to the results: figures, and what is wrong with them.

use crate::cluster::StopProblem;
use crate::control::{Answer, NoAnswer, Roots, describe};
use crate::cost::{ClusterCosts, pairs, per_replica, view_changes};
use crate::progress::Progress;
use crate::recorder::Totals;
use crate::report::{
    AbsentReplica, BenchReport, ClientCosts, LatencyMicroseconds, RunFigures, Spread, Verdict,
};
use crate::series::{Collected, Row};
use crate::verdict::{Bottleneck, Generator, LoadFigures, OpenLoop, bottleneck, remark};
use crate::{BenchArguments, Environment, stages};
use hdrhistogram::Histogram;
use quorate_telemetry::ReplicaReport;
use quorate_types::Quorums;
use std::time::{Duration, Instant};

/// The cluster and the load generator at one moment.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) at: Instant,
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) client_cpu: Duration,
    pub(crate) reports: Vec<Answer>,
}

/// How often a replica did not report at the end of an interval.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Missed {
    /// It was silent: perhaps it only had much to do.
    silent: u64,
    /// It could not be reached.
    failed: u64,
}

impl Missed {
    pub(crate) fn note(&mut self, answer: &Answer) {
        match answer {
            Ok(_) => {}
            Err(NoAnswer::Silent(_)) => self.silent += 1,
            Err(NoAnswer::Failed(_)) => self.failed += 1,
        }
    }
}

/// What the results are made from, besides the series.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) arguments: &'a BenchArguments,
    pub(crate) quorums: Quorums,
    pub(crate) progress: &'a Progress,
    /// At the start of the first run and the end of each.
    pub(crate) marks: &'a [Mark],
    /// How often each replica did not report at the end of an interval.
    pub(crate) missed: &'a [Missed],
    pub(crate) roots: Roots,
    /// What each replica said when roots were compared.
    pub(crate) answers: Vec<Answer>,
}

/// The results with everything that plots and files are made from.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) verdict: Verdict,
    pub(crate) rows: Vec<Row>,
    pub(crate) response: Histogram<u64>,
    pub(crate) service: Histogram<u64>,
}

impl Findings {
    /// Replicas of a local cluster that did not stop in order are a problem, unless they were allowed to be down.
    pub(crate) fn note_stopped(&mut self, stopped: &[StopProblem]) {
        let report = &mut self.verdict.report;
        for StopProblem { replica, text } in stopped {
            let absent = report.absent.iter().any(|absent| absent.replica == replica.0);
            if absent && report.absent.len() <= report.flags.load.allow_down {
                report.warnings.push(text.clone());
            } else {
                report.problems.push(text.clone());
            }
        }
    }
}

/// The results.
pub(crate) fn judge(evidence: &Evidence<'_>, collected: Collected) -> Findings {
    let threads = evidence.arguments.load.threads;
    let mut totals = Totals::new(threads);
    collected.runs.iter().for_each(|run| totals.add(run));
    let runs: Vec<_> = collected
        .runs
        .iter()
        .enumerate()
        .map(|(index, totals)| {
            let (start, end) = (&evidence.marks[index], &evidence.marks[index + 1]);
            run_figures(evidence, &collected.rows, index + 1, totals, (start, end))
        })
        .collect();
    let mut report = assemble(evidence, &collected.rows, &totals, runs);
    note_roots(evidence, &mut report);
    note_errors(evidence, &mut report);
    note_silent(evidence, &mut report);
    note_absent(&mut report);
    note_bottleneck(&mut report);
    let Totals { response, service, .. } = totals;
    Findings { verdict: Verdict { report }, rows: collected.rows, response, service }
}

/// What an open loop was to do, and did; nothing for a closed one.
fn open_loop(evidence: &Evidence<'_>, totals: &Totals, operations: u64, backlog: u64) -> Option<OpenLoop> {
    let target_ops_s = evidence.arguments.rate?;
    let scheduled_operations = totals.scheduled * evidence.arguments.load.bundle as u64;
    let achieved_share = ratio(operations as f64, scheduled_operations as f64);
    Some(OpenLoop { target_ops_s, achieved_share, scheduled_operations, unsent_operations: backlog })
}

fn generator(totals: &Totals, seconds: f64) -> Generator {
    let busiest = totals.cpu.iter().max().copied().unwrap_or_default();
    let lag = |quantile| totals.lag.value_at_quantile(quantile) as f64 / 1000.0;
    Generator {
        cpu_share: busiest.as_secs_f64() / seconds,
        lag_p99_us: lag(0.99),
        lag_max_us: lag(1.0),
        blocked_share: ratio(totals.blocked as f64, totals.sent as f64),
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn run_figures(
    evidence: &Evidence<'_>,
    rows: &[Row],
    run: usize,
    totals: &Totals,
    (start, end): (&Mark, &Mark),
) -> RunFigures {
    let seconds = (end.at - start.at).as_secs_f64();
    let operations = end.operations - start.operations;
    let backlog = rows.iter().rfind(|row| row.run == run).map_or(0, |row| row.backlog);
    RunFigures {
        run,
        throughput_ops_s: operations as f64 / seconds,
        operations,
        errors: end.errors - start.errors,
        seconds,
        response_us: LatencyMicroseconds::of(&totals.response),
        service_us: LatencyMicroseconds::of(&totals.service),
        cluster: ClusterCosts::between(&start.reports, &end.reports, operations),
        open_loop: open_loop(evidence, totals, operations, backlog),
        generator: generator(totals, seconds),
    }
}

fn assemble(evidence: &Evidence<'_>, rows: &[Row], totals: &Totals, runs: Vec<RunFigures>) -> BenchReport {
    let (start, end) = (&evidence.marks[0], &evidence.marks[evidence.marks.len() - 1]);
    let seconds = (end.at - start.at).as_secs_f64();
    let operations = end.operations - start.operations;
    let client_cpu = end.client_cpu.saturating_sub(start.client_cpu).as_secs_f64() * 1e6;
    let backlog = rows.last().map_or(0, |row| row.backlog);
    let response_us = LatencyMicroseconds::of(&totals.response);
    let (stages, warning) = match stages::between(&start.reports, &end.reports) {
        Ok(stages) => (stages, None),
        Err(error) => (Vec::new(), Some(format!("no break-down by stages: {error}"))),
    };
    let arguments = evidence.arguments;
    BenchReport {
        throughput_ops_s: operations as f64 / seconds,
        operations,
        errors: evidence.progress.errors(),
        latency_us: response_us,
        response_us,
        service_us: LatencyMicroseconds::of(&totals.service),
        cluster: ClusterCosts::between(&start.reports, &end.reports, operations),
        per_replica: per_replica(&start.reports, &end.reports, operations, seconds),
        client: ClientCosts { cpu_us_per_op: ratio(client_cpu, operations as f64) },
        roots_equal: matches!(evidence.roots, Roots::Equal { .. }),
        roots: String::new(),
        durability: said(evidence, |report| &report.durability),
        security: said(evidence, |report| &report.security),
        replicas: evidence.quorums.replicas,
        faults: evidence.quorums.faults,
        absent: absent(evidence),
        view_changes: view_changes(&start.reports, &end.reports),
        seconds,
        load: if arguments.rate.is_some() { "open loop" } else { "closed loop" }.to_owned(),
        open_loop: open_loop(evidence, totals, operations, backlog),
        generator: generator(totals, seconds),
        bottleneck: Bottleneck::None,
        spread: Spread::of(&runs),
        runs,
        stages,
        problems: Vec::new(),
        warnings: warning.into_iter().collect(),
        environment: Environment::here(),
        seed: arguments.load.seed,
        flags: arguments.clone(),
    }
}

/// What the replicas say about themselves; several words when they differ.
fn said(evidence: &Evidence<'_>, word: fn(&ReplicaReport) -> &str) -> String {
    let mut words: Vec<_> = evidence.answers.iter().flatten().map(word).collect();
    words.sort_unstable();
    words.dedup();
    words.join(", ")
}

/// The replicas that were not there all the time, as far as that was seen.
fn absent(evidence: &Evidence<'_>) -> Vec<AbsentReplica> {
    let (start, end) = (&evidence.marks[0], &evidence.marks[evidence.marks.len() - 1]);
    let restarted = pairs(&start.reports, &end.reports)
        .filter(|(before, after)| after.costs.restarted_since(&before.costs))
        .map(|(before, _)| before.replica);
    let restarted: Vec<u8> = restarted.collect();
    let mut found = Vec::new();
    for (replica, missed) in (0u8..).zip(evidence.missed) {
        let index = usize::from(replica);
        let missing = |when: &str, answers: &[Answer]| {
            answers[index].as_ref().err().map(|error| format!("it did not report {when}: {error}"))
        };
        let why = missing("when the measuring began", &start.reports)
            .or_else(|| missing("at the end", &end.reports))
            .or_else(|| missing("when roots were compared", &evidence.answers))
            .or_else(|| restarted.contains(&replica).then(|| "it was restarted".to_owned()))
            .or_else(|| {
                let failed = missed.failed;
                (failed > 0).then(|| format!("it could not be reached at the ends of {failed} intervals"))
            });
        found.extend(why.map(|why| AbsentReplica { replica, why }));
    }
    found
}

fn note_roots(evidence: &Evidence<'_>, report: &mut BenchReport) {
    let lines = describe(&evidence.answers);
    let answered = evidence.answers.iter().flatten().count();
    report.roots = match &evidence.roots {
        Roots::Equal { seq, root } if answered == report.replicas => {
            format!("all {answered} roots are equal at seq {seq}: {root}")
        }
        Roots::Equal { seq, root } => {
            format!(
                "the {answered} roots of {} replicas that report are equal at seq {seq}: {root}",
                report.replicas
            )
        }
        Roots::Different => format!("the replicas hold DIFFERENT states:{lines}"),
        Roots::Unknown => {
            format!("the replicas did not come to the same seq, so roots are not comparable:{lines}")
        }
    };
    if !report.roots_equal {
        report.problems.push("the roots are not all equal".to_owned());
    }
}

fn note_errors(evidence: &Evidence<'_>, report: &mut BenchReport) {
    if report.errors > 0 {
        let first = evidence.progress.first_error().unwrap_or_default();
        report.problems.push(format!("{} operations failed; the first: {first}", report.errors));
    }
    let nothing_due = report.open_loop.is_some_and(|open| open.scheduled_operations == 0);
    if report.operations == 0 && !nothing_due {
        report.problems.push("no operation was completed in the measured time".to_owned());
    }
    if nothing_due {
        let problem = "nothing was due in the measured time; use a longer --duration or smaller bundles";
        report.problems.push(problem.to_owned());
    }
}

/// Replicas that reported in the end, but not in between.
fn note_silent(evidence: &Evidence<'_>, report: &mut BenchReport) {
    for (replica, missed) in (0u8..).zip(evidence.missed) {
        let known = report.absent.iter().any(|absent| absent.replica == replica);
        if missed.silent > 0 && !known {
            report.warnings.push(format!(
                "replica {replica} was silent at the ends of {} intervals: stopped for a while, or overloaded; their \
                 costs are without it",
                missed.silent
            ));
        }
    }
}

fn note_absent(report: &mut BenchReport) {
    let allowed = report.flags.load.allow_down;
    let down = report.absent.len();
    for AbsentReplica { replica, why } in &report.absent {
        if down <= allowed {
            report.warnings.push(format!("replica {replica} was down, as --allow-down permits: {why}"));
        } else {
            report
                .problems
                .push(format!("replica {replica} was down: {why}; --allow-down {down} would accept that"));
        }
    }
}

fn note_bottleneck(report: &mut BenchReport) {
    let figures = load_figures(report);
    let (bottleneck, problem) = bottleneck(&figures);
    report.bottleneck = bottleneck;
    report.problems.extend(problem);
    report.warnings.extend(remark(&figures));
}

/// What the bottleneck is told from.
pub(crate) fn load_figures(report: &BenchReport) -> LoadFigures {
    let load = &report.flags.load;
    LoadFigures {
        operations: report.operations,
        granularity: (load.clients * load.bundle) as u64,
        generator: report.generator,
        open_loop: report.open_loop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::verdict;
    use quorate_types::ReplicaId;

    fn report_with_absent(line: &str, absent: &[u8]) -> BenchReport {
        let mut report = verdict(line).report;
        report.absent = absent
            .iter()
            .map(|replica| AbsentReplica { replica: *replica, why: "gone".to_owned() })
            .collect();
        note_absent(&mut report);
        report
    }

    fn findings(report: BenchReport) -> Findings {
        let (response, service) = (crate::recorder::histogram(), crate::recorder::histogram());
        Findings { verdict: Verdict { report }, rows: Vec::new(), response, service }
    }

    #[test]
    fn a_replica_that_was_down_fails_the_run_unless_that_is_allowed() {
        let strict = report_with_absent("", &[2]);
        assert_eq!(strict.problems, ["replica 2 was down: gone; --allow-down 1 would accept that"]);
        let allowed = report_with_absent("--allow-down 1", &[2]);
        assert!(allowed.problems.is_empty() && allowed.warnings[0].contains("replica 2 was down"));
        let too_many = report_with_absent("--allow-down 1", &[2, 3]);
        assert_eq!(too_many.problems.len(), 2);
    }

    #[test]
    fn a_process_that_died_is_allowed_to_exactly_when_its_replica_was() {
        let died =
            |replica| StopProblem { replica: ReplicaId(replica), text: format!("{replica} was killed") };
        let mut found = findings(report_with_absent("--allow-down 1", &[2]));
        found.note_stopped(&[died(2)]);
        assert!(found.verdict.report.problems.is_empty());
        assert_eq!(found.verdict.report.warnings[1], "2 was killed");
        found.note_stopped(&[died(3)]);
        assert_eq!(found.verdict.report.problems, ["3 was killed"]);
    }

    #[test]
    fn the_bottleneck_becomes_a_problem() {
        let mut report = verdict("--rate 200000").report;
        note_bottleneck(&mut report);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        report.open_loop = Some(OpenLoop { scheduled_operations: 2_000_000, ..report.open_loop.unwrap() });
        note_bottleneck(&mut report);
        assert_eq!(report.bottleneck, Bottleneck::Cluster);
        assert_eq!(report.problems.len(), 1);
    }
}
