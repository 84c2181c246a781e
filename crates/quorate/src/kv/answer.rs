//! What an answer says: what is printed of it, what is said beside it, and whether it is a yes.

use super::printer::{Printer, Record};
use crate::failure::Failure;
use quorate_client::Client;
use quorate_types::{Operation, OperationResult};
use std::io::Write;

/// Executes one bundle.
pub(super) async fn execute(
    client: &Client,
    operations: Vec<Operation>,
) -> Result<Vec<OperationResult>, Failure> {
    let executed = client.execute(&operations).await;
    Ok(executed.map_err(Failure::of_client)?.1)
}

/// An error is a definite no; anything else is no answer to what was asked.
pub(super) fn unexpected(results: &[OperationResult]) -> Failure {
    let error = results.iter().find_map(|result| match result {
        OperationResult::Error(error) => Some(*error),
        _ => None,
    });
    match error {
        Some(error) => Failure::NotDone(error.to_string()),
        None => Failure::Unknown("the cluster answered something else than was asked".to_owned()),
    }
}

/// Prints the result of the one operation that a command consists of; why the answer is a no, if it is.
pub(super) fn print_one<W: Write>(
    operation: &Operation,
    results: &[OperationResult],
    printer: &mut Printer<W>,
) -> Result<Option<String>, Failure> {
    let [result] = results else { return Err(unexpected(results)) };
    match (operation, result) {
        (Operation::Get { key }, OperationResult::Value(Some(found))) => {
            printer.record(Record::Value { key, value: &found.value, version: found.version });
        }
        (Operation::Get { key }, OperationResult::Value(None)) => {
            printer.record(Record::Absent { key });
            return Ok(Some("the key does not exist".to_owned()));
        }
        (_, OperationResult::Written { version }) => printer.record(Record::Written { version: *version }),
        (_, OperationResult::NotWritten { version }) => {
            printer.record(Record::NotWritten { version: *version });
            return Ok(Some(match version {
                Some(version) => format!("not written: the key exists with version {version}"),
                None => "not written: the key does not exist".to_owned(),
            }));
        }
        (_, OperationResult::Integer { value, version }) => {
            printer.record(Record::Number { name: "value", number: *value, version: Some(*version) });
        }
        (_, OperationResult::Length { length, version }) => {
            let number = i64::try_from(*length).expect("invariant: a value is short");
            printer.record(Record::Number { name: "length", number, version: Some(*version) });
        }
        _ => return Err(unexpected(results)),
    }
    Ok(None)
}

/// Prints how many keys existed, under a name; whether all did.
pub(super) fn print_existed<W: Write>(
    name: &'static str,
    results: &[OperationResult],
    printer: &mut Printer<W>,
) -> Result<bool, Failure> {
    let mut existed = 0;
    for result in results {
        let OperationResult::Existed(one) = result else { return Err(unexpected(results)) };
        existed += usize::from(*one);
    }
    let number = i64::try_from(existed).expect("invariant: a bundle is short");
    printer.record(Record::Number { name, number, version: None });
    Ok(existed == results.len())
}
