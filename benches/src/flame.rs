//! Flame graphs: the stacks that perf prints, folded and drawn as one self-contained SVG.
//!
//! Debian has perf, and perf's own flame graph needs a template that Debian has not; this is the little that is
//! missing. Width is the share of samples, upwards is deeper in the call, order is alphabetical. Kernel frames have a
//! colour of their own. A click on a frame widens it, a click on the lowest brings everything back.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead;

/// How kernel functions are marked in folded stacks, as other tools do it.
const KERNEL: &str = "_[k]";
/// Addresses from here on are the kernel's.
const KERNEL_START: u64 = 0xffff_8000_0000_0000;
/// What perf prints where unwinding by DWARF ends.
const STACK_END: u64 = u64::MAX;

const WIDTH: f64 = 1200.0;
const ROW: usize = 17;
const HEAD: usize = 48;
const CHARACTER_WIDTH: f64 = 6.7;
/// Frames with a smaller share are left out: they would be a fifth of a pixel.
const SHARE_MIN: f64 = 0.2 / WIDTH;

/// Stacks and how often each was seen.
#[derive(Debug, Default)]
pub struct Stacks {
    /// Outermost first; the first name is the thread's.
    counts: BTreeMap<Vec<String>, u64>,
}

impl Stacks {
    /// Reads what `perf script -F comm,tid,ip,sym` prints: for each sample a line with thread and number, then the
    /// frames, innermost first and indented, then an empty line.
    ///
    /// # Errors
    /// When reading fails.
    pub fn read(input: impl BufRead) -> anyhow::Result<Self> {
        let mut stacks = Self::default();
        let mut sample: Option<(String, Vec<String>)> = None;
        for line in input.lines() {
            let line = line.context("reading the output of perf script")?;
            if line.trim().is_empty() || !line.starts_with(char::is_whitespace) {
                stacks.count(sample.take());
            }
            if let Some((thread, _)) = line.trim_end().rsplit_once(' ')
                && !line.starts_with(char::is_whitespace)
            {
                sample = Some((thread.trim_end().to_owned(), Vec::new()));
            } else if let (Some((_, frames)), Some(frame)) = (&mut sample, frame(&line)) {
                frames.push(frame);
            }
        }
        stacks.count(sample);
        Ok(stacks)
    }

    fn count(&mut self, sample: Option<(String, Vec<String>)>) {
        let Some((thread, frames)) = sample else { return };
        let stack = std::iter::once(thread).chain(frames.into_iter().rev()).collect();
        *self.counts.entry(stack).or_default() += 1;
    }

    /// One line for each stack: the frames with semicolons between, outermost first, and the count.
    #[must_use]
    pub fn folded(&self) -> String {
        let line = |(stack, count): (&Vec<String>, &u64)| format!("{} {count}\n", stack.join(";"));
        self.counts.iter().map(line).collect()
    }

    /// The picture.
    #[must_use]
    pub fn svg(&self, title: &str) -> String {
        let mut root = Node::default();
        for (stack, count) in &self.counts {
            root.add(stack, *count);
        }
        let depth = root.depth();
        let height = HEAD + depth * ROW + ROW;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"monospace\" font-size=\"11\">\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"50%\" y=\"22\" text-anchor=\"middle\" font-size=\"15\">{}</text>\n\
             <text x=\"50%\" y=\"39\" text-anchor=\"middle\" fill=\"#666\">{} samples</text>\n",
            escaped(title),
            root.count
        );
        let canvas = Canvas { total: root.count, bottom: HEAD + depth.saturating_sub(1) * ROW };
        canvas.draw("all", &root, 0, 0, &mut text);
        let _ = writeln!(text, "<script><![CDATA[{SCRIPT}]]></script>\n</svg>");
        text
    }
}

/// The name in a line such as `ffffffff81e2bc3b sock_recvmsg`, if the line is a frame.
fn frame(line: &str) -> Option<String> {
    let (address, name) = line.trim().split_once(' ')?;
    let address = u64::from_str_radix(address, 16).ok().filter(|address| *address != STACK_END)?;
    let mark = if address >= KERNEL_START { KERNEL } else { "" };
    // Semicolons separate frames in folded stacks.
    Some(format!("{}{mark}", name.trim().replace(';', ":")))
}

/// A function, called from one place.
#[derive(Debug, Default)]
struct Node {
    count: u64,
    callees: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, stack: &[String], count: u64) {
        let mut node = self;
        node.count += count;
        for name in stack {
            node = node.callees.entry(name.clone()).or_default();
            node.count += count;
        }
    }

    /// The rows that it needs, itself included.
    fn depth(&self) -> usize {
        1 + self.callees.values().map(Self::depth).max().unwrap_or(0)
    }
}

struct Canvas {
    total: u64,
    /// The top of the lowest row.
    bottom: usize,
}

#[expect(clippy::cast_precision_loss, reason = "shares of a picture")]
impl Canvas {
    fn draw(&self, name: &str, node: &Node, before: u64, level: usize, text: &mut String) {
        let total = self.total.max(1) as f64;
        let (left, share) = (before as f64 / total, node.count as f64 / total);
        if share < SHARE_MIN {
            return;
        }
        let y = self.bottom - level * ROW;
        let shown = name.strip_suffix(KERNEL).unwrap_or(name);
        let _ = writeln!(
            text,
            "<g data-x=\"{left:.6}\" data-w=\"{share:.6}\"><title>{name} ({count} of {all} samples, {percent:.2} %)</title>\
             <rect x=\"{x:.4}%\" y=\"{y}\" width=\"{width:.4}%\" height=\"{height}\" fill=\"{colour}\"/>\
             <text x=\"{x:.4}%\" dx=\"3\" y=\"{base}\" data-n=\"{shown}\">{label}</text></g>",
            name = escaped(name),
            count = node.count,
            all = self.total,
            percent = share * 100.0,
            x = left * 100.0,
            width = share * 100.0,
            height = ROW - 1,
            colour = colour(name),
            base = y + 12,
            shown = escaped(shown),
            label = escaped(&fitting(shown, share * WIDTH)),
        );
        let mut before = before;
        for (name, callee) in &node.callees {
            self.draw(name, callee, before, level + 1, text);
            before += callee.count;
        }
    }
}

/// As much of a name as fits into a frame of `width` pixels, or nothing.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
fn fitting(name: &str, width: f64) -> String {
    let room = ((width - 6.0) / CHARACTER_WIDTH).max(0.0) as usize;
    match name.chars().count() {
        length if length <= room => name.to_owned(),
        _ if room < 3 => String::new(),
        _ => name.chars().take(room - 2).chain("..".chars()).collect(),
    }
}

/// Warm for programs, blue for the kernel; the shade depends on the name, so that it is the same in every picture.
fn colour(name: &str) -> String {
    let hash = name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let shade = hash % 60;
    match name.ends_with(KERNEL) {
        true => format!("rgb({},{},230)", 120 + shade, 165 + shade),
        false => format!("rgb(240,{},{})", 130 + shade + shade / 2, 60 + shade),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "g{cursor:pointer}g:hover rect{stroke:#000}g text{pointer-events:none}";

/// Widens the frame that is clicked to the whole width, its callers with it.
const SCRIPT: &str = r#"
document.documentElement.addEventListener("click", event => {
  const chosen = event.target.closest("g");
  if (!chosen) return;
  const from = +chosen.dataset.x, width = +chosen.dataset.w;
  for (const g of document.querySelectorAll("g")) {
    const left = Math.max((+g.dataset.x - from) / width, 0);
    const right = Math.min((+g.dataset.x + +g.dataset.w - from) / width, 1);
    g.style.display = right - left > 1e-4 ? "" : "none";
    const share = Math.max(right - left, 0), [rect, text] = g.querySelectorAll("rect,text");
    rect.setAttribute("x", left * 100 + "%");
    rect.setAttribute("width", share * 100 + "%");
    text.setAttribute("x", left * 100 + "%");
    const name = text.dataset.n, room = Math.floor((share * 1200 - 6) / 6.7);
    text.textContent = name.length <= room ? name : room < 3 ? "" : name.slice(0, room - 2) + "..";
  }
});
"#;

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT_OUTPUT: &str = "core-0 17 \n\t      30a fine<T>\n\t      2f4 run\n\tffffffffffffffff [unknown]\n\n\
        core-0 17 \n\tffffffff81e48bc2 tcp_send\n\t      2f4 run\n\nmy thread 18 \n\n\
        core-0 17 \n\t      30a fine<T>\n\t      2f4 run\n\n";

    fn stacks() -> Stacks {
        Stacks::read(SCRIPT_OUTPUT.as_bytes()).unwrap()
    }

    #[test]
    fn equal_stacks_are_folded_into_one_line() {
        assert_eq!(stacks().folded(), "core-0;run;fine<T> 2\ncore-0;run;tcp_send_[k] 1\nmy thread 1\n");
    }

    #[test]
    fn the_picture_has_a_frame_for_each_function_with_its_share() {
        let svg = stacks().svg("a & b");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("a &amp; b") && svg.contains(">4 samples<"));
        assert!(svg.contains("<title>fine&lt;T&gt; (2 of 4 samples, 50.00 %)</title>"));
        assert!(svg.contains("<title>tcp_send_[k] (1 of 4 samples, 25.00 %)</title>"));
        assert_eq!(svg.matches("<g ").count(), 6, "all, two threads, run and its two callees");
        assert_eq!(Stacks::default().svg("").matches("<g ").count(), 0, "nothing to draw");
    }

    #[test]
    fn a_name_is_cut_to_its_frame() {
        assert_eq!(fitting("function", 100.0), "function");
        assert_eq!(fitting("function", 50.0), "func..");
        assert_eq!(fitting("function", 10.0), "");
    }
}
