//! `quorate bench compare`: two results side by side, and what was different about the runs.

use crate::files::SUMMARY;
use crate::format::short;
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// What `quorate bench compare` may be told.
#[derive(Args, Clone, Debug)]
pub struct CompareArguments {
    /// The results to compare with: a `summary.json`, or the directory of `--out` in which it is.
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The results that are compared.
    #[arg(value_name = "B")]
    pub b: PathBuf,
}

/// A figure: its name, where it is, and its unit.
const FIGURES: [(&str, &str, &str); 21] = [
    ("throughput", "/throughput_ops_s", "ops/s"),
    ("throughput, median run", "/spread/throughput_ops_s/median", "ops/s"),
    ("achieved of what was due", "/open_loop/achieved_share", ""),
    ("errors", "/errors", ""),
    ("response p50", "/response_us/p50", "µs"),
    ("response p90", "/response_us/p90", "µs"),
    ("response p99", "/response_us/p99", "µs"),
    ("response p99.9", "/response_us/p999", "µs"),
    ("response max", "/response_us/max", "µs"),
    ("service p50", "/service_us/p50", "µs"),
    ("service p99", "/service_us/p99", "µs"),
    ("CPU per operation", "/cluster/cpu_us_per_op", "µs"),
    ("context switches", "/cluster/context_switches_per_op", "per op"),
    ("system calls", "/cluster/syscalls_per_op", "per op"),
    ("ring enters", "/cluster/enters_per_op", "per op"),
    ("entries per enter", "/cluster/entries_per_enter", ""),
    ("allocations", "/cluster/allocations_per_op", "per op"),
    ("bytes sent", "/cluster/bytes_sent_per_op", "per op"),
    ("log syncs", "/cluster/log_syncs_per_op", "per op"),
    ("log bytes", "/cluster/log_bytes_per_op", "per op"),
    ("CPU of the clients", "/client/cpu_us_per_op", "µs per op"),
];
/// What else makes results incomparable.
const CIRCUMSTANCES: [&str; 11] = [
    "load",
    "version",
    "commit",
    "kernel",
    "cpu_model",
    "cpus",
    "durability",
    "security",
    "replicas",
    "faults",
    "bottleneck",
];
/// Flags that say where results go, and nothing about the run.
const DESTINATIONS: [&str; 2] = ["json", "out"];

/// What can be compared.
const GIVE: &str = "give a directory that `quorate bench --out` has written, or a file that `quorate bench --json` has written";

/// Two results side by side.
#[derive(Clone, Debug)]
pub struct Comparison {
    names: [String; 2],
    figures: Vec<Figure>,
    differences: Vec<Difference>,
    /// The problems of A and of B.
    problems: [Vec<String>; 2],
}

#[derive(Clone, Debug, PartialEq)]
struct Figure {
    name: String,
    unit: String,
    values: [f64; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    name: String,
    values: [String; 2],
}

/// Reads both results.
pub fn compare(arguments: &CompareArguments) -> anyhow::Result<Comparison> {
    let (a, b) = (read(&arguments.a)?, read(&arguments.b)?);
    Ok(Comparison::of([arguments.a.display().to_string(), arguments.b.display().to_string()], &a, &b))
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let file = if path.is_dir() { path.join(SUMMARY) } else { path.to_owned() };
    let shown = file.display();
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {shown}; {GIVE}"))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{shown}: this is no JSON; {GIVE}"))?;
    ensure!(
        value.get("throughput_ops_s").is_some_and(Value::is_number) && value.get("flags").is_some(),
        "{shown}: these are no results of `quorate bench`; {GIVE}"
    );
    Ok(value)
}

impl Comparison {
    fn of(names: [String; 2], a: &Value, b: &Value) -> Self {
        let number = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_f64);
        let figure = |name: &str, path: &str, unit: &str| {
            let values = [number(a, path)?, number(b, path)?];
            Some(Figure { name: name.to_owned(), unit: unit.to_owned(), values })
        };
        let mut figures: Vec<_> =
            FIGURES.iter().filter_map(|(name, path, unit)| figure(name, path, unit)).collect();
        for (name, path) in stages(a) {
            figures.extend(stages(b).into_iter().find(|(other, _)| *other == name).and_then(|(_, other)| {
                let values = [number(a, &path)?, number(b, &other)?];
                Some(Figure { name: format!("{name}, mean"), unit: "µs".to_owned(), values })
            }));
        }
        let problems = [a, b].map(|value| {
            let list = value.get("problems").and_then(Value::as_array).cloned().unwrap_or_default();
            list.iter().filter_map(|problem| problem.as_str().map(str::to_owned)).collect()
        });
        Self { names, figures, differences: differences(a, b), problems }
    }
}

/// The stages with where their means are.
fn stages(value: &Value) -> Vec<(String, String)> {
    let list = value.get("stages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = |stage: &Value| stage.get("name")?.as_str().map(str::to_owned);
    list.iter()
        .enumerate()
        .filter_map(|(index, stage)| Some((name(stage)?, format!("/stages/{index}/mean_us"))))
        .collect()
}

/// Circumstances and flags with different values.
fn differences(a: &Value, b: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut check = |name: String, a: Option<&Value>, b: Option<&Value>| {
        let values = [a, b].map(shown);
        if values[0] != values[1] {
            found.push(Difference { name, values });
        }
    };
    for name in CIRCUMSTANCES {
        check(name.replace('_', " "), a.get(name), b.get(name));
    }
    let flags = |value: &Value| value.get("flags").and_then(Value::as_object).cloned().unwrap_or_default();
    let (a, b) = (flags(a), flags(b));
    let mut names: Vec<_> = a.keys().chain(b.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names.into_iter().filter(|name| !DESTINATIONS.contains(&name.as_str())) {
        check(format!("--{}", name.replace('_', "-")), a.get(name), b.get(name));
    }
    found
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => list.iter().map(|item| shown(Some(item))).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A  {}\nB  {}\n", self.names[0], self.names[1])?;
        writeln!(f, "{:<28}{:>14}{:>14}{:>10}", "", "A", "B", "B / A")?;
        for Figure { name, unit, values } in &self.figures {
            let [a, b] = values.map(short);
            let ratio = match values {
                [a, b] if *a != 0.0 => format!("{:.2}", b / a),
                [_, b] if *b == 0.0 => "=".to_owned(),
                _ => "–".to_owned(),
            };
            writeln!(f, "{}", format!("{name:<28}{a:>14}{b:>14}{ratio:>10}  {unit}").trim_end())?;
        }
        if self.differences.is_empty() {
            writeln!(f, "\nall flags and circumstances are the same")?;
        } else {
            writeln!(f, "\nwhat was different")?;
            for Difference { name, values: [a, b] } in &self.differences {
                writeln!(f, "  {name:<18} {a}  →  {b}")?;
            }
        }
        for (letter, problems) in ["A", "B"].into_iter().zip(&self.problems) {
            for problem in problems {
                writeln!(f, "{letter} FAILED: {problem}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::verdict;
    use expect_test::expect;

    #[test]
    fn figures_stand_side_by_side_and_differences_are_marked() {
        let a = verdict("--out a").report;
        let mut b = verdict("--out b --bundle 10 --rate 5000 --mix get=1").report;
        b.throughput_ops_s *= 2.0;
        b.problems.push("something".to_owned());
        let value = |report| serde_json::to_value(report).unwrap();
        let comparison = Comparison::of(["a".to_owned(), "b".to_owned()], &value(a), &value(b));
        expect![[r#"
            A  a
            B  b

                                                     A             B     B / A
            throughput                         123,457       246,913      2.00  ops/s
            throughput, median run             100,001       100,001      1.00  ops/s
            errors                                   0             0         =
            response p50                       500,171       500,171      1.00  µs
            response p90                       900,202       900,202      1.00  µs
            response p99                       990,380       990,380      1.00  µs
            response p99.9                     999,293       999,293      1.00  µs
            response max                     1,000,342     1,000,342      1.00  µs
            service p50                        500,171       500,171      1.00  µs
            service p99                        990,380       990,380      1.00  µs
            CPU per operation                     12.5          12.5      1.00  µs
            context switches                         0             0         =  per op
            system calls                             0             0         =  per op
            ring enters                              0             0         =  per op
            entries per enter                        0             0         =
            allocations                              0             0         =  per op
            bytes sent                               0             0         =  per op
            log syncs                                0             0         =  per op
            log bytes                                0             0         =  per op
            CPU of the clients                    1.25          1.25      1.00  µs per op
            admitted, mean                         150           150      1.00  µs
            committed, mean                        150           150      1.00  µs

            what was different
              load               closed loop  →  open loop
              --bundle           100  →  10
              --depth            16  →  64
              --mix              set=100  →  get=1
              --rate             –  →  5000.0
            B FAILED: something
        "#]]
        .assert_eq(&comparison.to_string());
    }

    #[test]
    fn equal_runs_differ_in_nothing_and_old_results_have_fewer_figures() {
        let a = serde_json::to_value(verdict("").report).unwrap();
        let same = Comparison::of([String::new(), String::new()], &a, &a);
        assert!(same.to_string().contains("all flags and circumstances are the same"));
        let old = serde_json::json!({"throughput_ops_s": 5.0, "flags": {}});
        assert_eq!(Comparison::of([String::new(), String::new()], &old, &a).figures.len(), 1);
    }

    #[test]
    fn what_are_no_results_is_refused_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", read(path).unwrap_err());
        assert!(error(directory.path()).contains("summary.json"));
        let file = directory.path().join("summary.json");
        std::fs::write(&file, "{").unwrap();
        assert!(error(&file).contains("this is no JSON"));
        std::fs::write(&file, "{\"steps\": []}").unwrap();
        assert!(error(directory.path()).contains("these are no results"));
        std::fs::write(&file, serde_json::to_string(&verdict("").report).unwrap()).unwrap();
        assert!(read(directory.path()).is_ok());
    }
}
