//! Pages for the browser, each one file: style and drawings are inside, and there is no script.

mod chart;
mod run;
mod scale;
mod sweep;

pub(crate) use run::of_run;
pub(crate) use sweep::of_sweep;

use std::fmt::Write as _;

const STYLE: &str = include_str!("page/style.css");
/// As many points of a line as can be told apart.
const POINTS_MAX: usize = 800;

/// Text as content or attribute of an element.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Colours of a terminal and the like have no place in a page.
            control if control.is_control() && control != '\n' && control != '\t' => {}
            other => escaped.push(other),
        }
    }
    escaped
}

/// The whole page.
fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// What is to be said first: good or not, and why.
fn verdict(headline: &str, problems: &[String], notes: &[String]) -> String {
    let class = if problems.is_empty() { "verdict" } else { "verdict bad" };
    let mut out = format!("<div class=\"{class}\"><b>{}</b>", escape(headline));
    if !(problems.is_empty() && notes.is_empty()) {
        out.push_str("<ul>");
        let kinds = [("problem", problems), ("note", notes)];
        for (kind, texts) in kinds {
            for text in texts {
                write!(out, "<li class=\"{kind}\">{}</li>", escape(text))
                    .expect("invariant: writing to a string does not fail");
            }
        }
        out.push_str("</ul>");
    }
    out.push_str("</div>\n");
    out
}

/// The figures that most people look for.
fn tiles(tiles: &[(String, &str)]) -> String {
    let one = |(value, name): &(String, &str)| {
        format!("<div><strong>{}</strong><span>{}</span></div>", escape(value), escape(name))
    };
    format!("<div class=\"tiles\">{}</div>\n", tiles.iter().map(one).collect::<String>())
}

/// A row of a table; the class may be empty.
fn row(class: &str, cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
    match class {
        "" => format!("<tr>{cells}</tr>\n"),
        class => format!("<tr class=\"{class}\">{cells}</tr>\n"),
    }
}

fn table(heads: &[&str], rows: &str) -> String {
    let heads: String = heads.iter().map(|head| format!("<th>{}</th>", escape(head))).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>\n"
    )
}

/// Names and values of a JSON object, with the objects in it taken apart.
fn facts(value: &serde_json::Value) -> String {
    let mut rows = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(list) if list.is_empty() => continue,
            other => other.to_string(),
        };
        rows += &row("", &[name.replace('_', " "), text]);
    }
    format!("<table class=\"facts\"><tbody>\n{rows}</tbody></table>\n")
}

/// At most [`POINTS_MAX`] points: neighbours become one, at the place of the first.
fn thinned(points: &[(f64, f64)], join: fn(&[(f64, f64)]) -> f64) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS_MAX).max(1);
    points.chunks(size).map(|chunk| (chunk[0].0, join(chunk))).collect()
}

fn mean(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|(_, value)| value).sum::<f64>() / points.len() as f64
}

fn greatest(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_becomes_markup() {
        let text = "<script>alert('a & \"b\"')</script>\u{1b}[31m";
        let escaped = escape(text);
        assert_eq!(escaped, "&lt;script&gt;alert(&#39;a &amp; &quot;b&quot;&#39;)&lt;/script&gt;[31m");
        let page = document(text, &verdict(text, &[text.to_owned()], &[text.to_owned()]));
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn many_points_become_few_and_peaks_stay() {
        let points: Vec<_> = (0..10_000).map(|at| (f64::from(at), f64::from(at % 100))).collect();
        let thin = thinned(&points, greatest);
        assert!(thin.len() <= POINTS_MAX && thin[0].0 == 0.0);
        assert_eq!(greatest(&thin), 99.0);
        let few = [(1.0, 2.0), (3.0, 4.0)];
        assert_eq!(thinned(&few, mean), few);
        assert!(thinned(&[], mean).is_empty());
    }

    #[test]
    fn facts_leave_out_what_was_not_given() {
        let value = serde_json::json!({"value_size": "64..128", "json": null, "key": [], "runs": 3});
        let table = facts(&value);
        assert!(table.contains("<td>value size</td><td>64..128</td>") && table.contains("<td>3</td>"));
        assert!(!table.contains("json") && !table.contains("key"), "{table}");
    }
}
