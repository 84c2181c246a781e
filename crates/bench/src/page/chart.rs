//! Line charts as SVG, drawn for both light and dark pages: all colours come from the style sheet.

use super::escape;
use super::scale::{Axis, Scale};
use std::fmt::Write as _;

const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 34.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 48.0;
/// As many colours as the style sheet has.
const COLOURS: usize = 6;
const WRITES: &str = "invariant: writing to a string does not fail";

/// A named line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Line {
    pub(crate) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), points }
    }
}

/// A chart of several lines.
#[derive(Clone, Debug)]
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: Axis,
    pub(crate) x_label: &'a str,
    pub(crate) x_format: fn(f64) -> String,
    pub(crate) y_scale: Scale,
    pub(crate) y_label: &'a str,
    pub(crate) y_format: fn(f64) -> String,
    /// Whether every point gets a dot.
    pub(crate) dots: bool,
    pub(crate) lines: Vec<Line>,
}

impl Chart<'_> {
    /// A figure with title, legend and drawing; a sentence when there is nothing to draw.
    pub(crate) fn render(&self) -> String {
        let title = escape(self.title);
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return format!("<figure><h3>{title}</h3><p>Nothing was recorded.</p></figure>\n");
        }
        let mut out = format!("<figure><h3>{title}</h3>\n");
        self.legend(&mut out);
        writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\" \
             xmlns=\"http://www.w3.org/2000/svg\">"
        )
        .expect(WRITES);
        let y = Axis::around(self.y_scale, self.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y));
        self.draw_axes(&y, &mut out);
        for (index, line) in self.lines.iter().enumerate() {
            self.draw_line(&y, index, line, &mut out);
        }
        out += "</svg></figure>\n";
        out
    }

    fn legend(&self, out: &mut String) {
        if self.lines.len() < 2 {
            return;
        }
        out.push_str("<ul class=\"legend\">");
        for (index, line) in self.lines.iter().enumerate() {
            let name = escape(&line.name);
            write!(out, "<li><i class=\"b{}\"></i>{name}</li>", index % COLOURS).expect(WRITES);
        }
        out.push_str("</ul>\n");
    }

    fn draw_axes(&self, y: &Axis, out: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let at = y_position(y, tick);
            let label = escape(&(self.y_format)(tick));
            writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"end\" x=\"{:.1}\" \
                 y=\"{:.1}\">{label}</text>",
                LEFT - 8.0,
                at + 4.0
            )
            .expect(WRITES);
        }
        for tick in self.x.ticks() {
            let at = x_position(&self.x, tick);
            let label = escape(&(self.x_format)(tick));
            writeln!(
                out,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/><text class=\"middle\" x=\"{at:.1}\" \
                 y=\"{:.1}\">{label}</text>",
                bottom + 18.0
            )
            .expect(WRITES);
        }
        let middle = (LEFT + right) / 2.0;
        let (x_label, y_label) = (escape(self.x_label), escape(self.y_label));
        let half = (TOP + bottom) / 2.0;
        writeln!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
             <text class=\"middle label\" x=\"{middle:.1}\" y=\"{:.1}\">{x_label}</text>\
             <text class=\"middle label\" transform=\"translate(14 {half:.1}) rotate(-90)\">{y_label}</text>",
            HEIGHT - 10.0
        )
        .expect(WRITES);
    }

    fn draw_line(&self, y: &Axis, index: usize, line: &Line, out: &mut String) {
        let colour = index % COLOURS;
        let places: Vec<_> = line
            .points
            .iter()
            .filter(|(at, value)| at.is_finite() && value.is_finite())
            .map(|(at, value)| (x_position(&self.x, *at), y_position(y, *value)))
            .collect();
        write!(out, "<polyline class=\"line s{colour}\" points=\"").expect(WRITES);
        for (at, value) in &places {
            write!(out, "{at:.1},{value:.1} ").expect(WRITES);
        }
        out.push_str("\"/>\n");
        // A line of one point would not be seen.
        if self.dots || places.len() == 1 {
            for (at, value) in &places {
                writeln!(out, "<circle class=\"f{colour}\" cx=\"{at:.1}\" cy=\"{value:.1}\" r=\"3\"/>")
                    .expect(WRITES);
            }
        }
    }
}

fn x_position(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.fraction(value) * (WIDTH - LEFT - RIGHT)
}

fn y_position(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.fraction(value) * (HEIGHT - TOP - BOTTOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: Vec<Line>) -> Chart<'static> {
        Chart {
            title: "a < b",
            x: Axis::exact([10.0].into_iter()),
            x_label: "time",
            x_format: |value| format!("{value}"),
            y_scale: Scale::Linear,
            y_label: "rate",
            y_format: |value| format!("{value}"),
            dots: false,
            lines,
        }
    }

    #[test]
    fn lines_stay_inside_the_frame_and_names_are_escaped() {
        let points = vec![(0.0, 0.0), (5.0, 100.0), (10.0, f64::NAN), (10.0, 50.0)];
        let svg = chart(vec![Line::new("x&y", points), Line::new("other", vec![(1.0, 1.0)])]).render();
        assert!(svg.contains("a &lt; b") && svg.contains("x&amp;y") && !svg.contains("NaN"), "{svg}");
        assert!(svg.contains("86.0,252.0 466.0,14.0 846.0,133.0 "), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 1, "a single point is a dot");
    }

    #[test]
    fn an_empty_chart_says_so() {
        assert!(chart(vec![Line::new("x", Vec::new())]).render().contains("Nothing was recorded"));
    }
}
