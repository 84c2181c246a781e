//! Damage to what is on disk while nobody runs. Of logs only what later groups vouch for is damaged: nobody can tell a
//! damaged last group from one that was never written whole, so a disk that does that is beyond what is promised.

use super::Disk;
use crate::random::Random;
use quorate_journal::GroupSummary;

impl Disk {
    /// Damages something; says what, in words.
    pub fn corrupt(&mut self, random: &mut Random) -> String {
        if random.percent(25) {
            return self.corrupt_checkpoint(random);
        }
        let core = random.index(self.logs.len());
        let log = &mut self.logs[core];
        let scan = log.scan();
        let vouched = |group: &&GroupSummary| group.number <= scan.watermark;
        let groups: Vec<&GroupSummary> = scan.groups.iter().filter(vouched).collect();
        if groups.is_empty() {
            return "nothing: no group is vouched for".to_owned();
        }
        let victim = *random.pick(&groups);
        let at = usize::try_from(victim.offset).expect("invariant: segments are small");
        let length = usize::try_from(victim.bytes).expect("invariant: segments are small");
        let (segment, number) = (victim.segment, victim.number);
        match random.below(7) {
            6 => {
                log.take_away(segment);
                format!("core {core}: segment {segment} is gone")
            }
            0 => {
                // The bytes of another group in its place.
                let other = *random.pick(&groups);
                let from = usize::try_from(other.offset).expect("invariant: segments are small");
                let count = length.min(usize::try_from(other.bytes).expect("invariant: segments are small"));
                let bytes = log.segment_mut(other.segment).map(|bytes| bytes[from..from + count].to_vec());
                if let (Some(bytes), Some(target)) = (bytes, log.segment_mut(segment)) {
                    target[at..at + count].copy_from_slice(&bytes);
                }
                format!("core {core}: group {} over group {number}", other.number)
            }
            1 => {
                // Only a segment that later ones vouch for as a whole.
                let last =
                    scan.groups.iter().filter(|group| group.segment == segment).map(|group| group.number);
                let later = scan.groups.iter().filter(|group| group.segment > segment);
                let known = later.map(|group| group.watermark).max();
                if known < last.max() {
                    return "nothing: no later segment vouches for all of this one".to_owned();
                }
                let cut = at + random.index(length);
                log.segment_mut(segment).into_iter().for_each(|bytes| bytes.truncate(cut));
                format!("core {core}: segment {segment} cut at {cut}")
            }
            _ => {
                let flips = random.magnitude(1, 64);
                let start = at + random.index(length);
                for _ in 0..flips {
                    let place = (start + random.index(600)).min(at + length - 1);
                    let flip = 1 << random.below(8);
                    log.segment_mut(segment).into_iter().for_each(|bytes| bytes[place] ^= flip);
                }
                format!("core {core}: {flips} bits of group {number} at {start} of segment {segment}")
            }
        }
    }

    fn corrupt_checkpoint(&mut self, random: &mut Random) -> String {
        let Some(file) = self.pages.any_file_mut(random) else {
            return "nothing: there is no checkpoint".to_owned();
        };
        if file.is_empty() {
            return "nothing: a file without bytes".to_owned();
        }
        if random.percent(20) {
            let cut = random.index(file.len());
            file.truncate(cut);
            return format!("a file of checkpoints cut at {cut}");
        }
        let at = random.index(file.len());
        file[at] ^= 1 << random.below(8);
        format!("a bit of a file of checkpoints at {at}")
    }
}
