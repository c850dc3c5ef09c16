//! Random documents and filters over a small vocabulary, so that they meet often.
//!
//! Everything follows from one seed. The vocabulary for `mingo` leaves out what is known to differ, as listed
//! in `mingo/README.md`.

mod random;

pub(crate) use random::Random;

const FIELDS: [&str; 4] = ["a", "b", "c", "d"];
const PATHS: [&str; 10] = ["a", "b", "c", "d", "a.b", "a.c", "b.a", "b.b", "a.b.c", "d.d"];
/// Where mingo's documents have arrays of objects, if they have arrays.
const KEYS_OF_OBJECTS: [&str; 2] = ["a", "b"];
const NUMBERS: [&str; 6] = ["0", "1", "2", "3", "-1", "10"];
const ODD_NUMBERS: [&str; 8] = ["1.0", "10e-1", "1e1", "0.1", "1e999999999", "-0", "1E-999999999", "20e-1"];
const STRINGS: [&str; 6] = ["\"\"", "\"x\"", "\"xy\"", "\"y\"", "\"1\"", "\"zebra\""];

/// Draws documents and filters.
pub(crate) struct Generator {
    pub(crate) random: Random,
    is_for_mingo: bool,
    is_in_array: bool,
}

impl Generator {
    pub(crate) fn new(seed: u64, is_for_mingo: bool) -> Self {
        Self { random: Random::new(seed), is_for_mingo, is_in_array: false }
    }

    pub(crate) fn document(&mut self) -> String {
        self.object(3)
    }

    fn object(&mut self, levels: usize) -> String {
        let mut keys = FIELDS.to_vec();
        let mut members = Vec::new();
        for _ in 0..self.random.below(keys.len() + 1) {
            let key = keys.swap_remove(self.random.below(keys.len()));
            members.push(format!("\"{key}\":{}", self.value(levels - 1, key)));
        }
        format!("{{{}}}", members.join(","))
    }

    fn value(&mut self, levels: usize, key: &str) -> String {
        match self.random.below(10) {
            5..=7 if levels > 0 => self.object(levels),
            8 | 9 if levels > 0 && !(self.is_for_mingo && self.is_in_array) => self.array(levels, key),
            _ => self.scalar(true),
        }
    }

    /// For mingo an array has no arrays inside, and either objects alone or scalars alone, by its key.
    fn array(&mut self, levels: usize, key: &str) -> String {
        let was_in_array = std::mem::replace(&mut self.is_in_array, true);
        let count = self.random.below(4);
        let items: Vec<_> = (0..count)
            .map(|_| match (self.is_for_mingo, KEYS_OF_OBJECTS.contains(&key)) {
                (true, true) => self.object(levels),
                (true, false) => self.scalar(true),
                (false, _) => self.value(levels - 1, key),
            })
            .collect();
        self.is_in_array = was_in_array;
        format!("[{}]", items.join(","))
    }

    fn scalar(&mut self, may_be_null: bool) -> String {
        let text = match self.random.below(9) {
            0..=3 => self.random.pick(&NUMBERS),
            4..=6 => self.random.pick(&STRINGS),
            7 => self.random.pick(&["true", "false"]),
            _ if may_be_null => "null",
            _ if self.is_for_mingo => "7",
            _ => self.random.pick(&ODD_NUMBERS),
        };
        text.to_owned()
    }

    fn operand(&mut self) -> String {
        let may_be_null = !self.is_for_mingo && self.random.below(2) == 0;
        self.scalar(may_be_null)
    }

    pub(crate) fn filter(&mut self) -> String {
        if self.random.below(20) == 0 {
            return "{}".to_owned();
        }
        self.fields(2)
    }

    fn fields(&mut self, levels: usize) -> String {
        let mut keys: Vec<&str> = PATHS.to_vec();
        if levels > 0 {
            keys.extend(["$and", "$or", "$nor"]);
        }
        let count = 1 + self.random.below(3);
        let mut members = Vec::new();
        for _ in 0..count {
            let key = keys.swap_remove(self.random.below(keys.len()));
            let value = if key.starts_with('$') { self.filters(levels) } else { self.condition(key, levels) };
            members.push(format!("\"{key}\":{value}"));
        }
        format!("{{{}}}", members.join(","))
    }

    fn filters(&mut self, levels: usize) -> String {
        let count = 1 + self.random.below(3);
        let filters: Vec<_> = (0..count).map(|_| self.fields(levels - 1)).collect();
        format!("[{}]", filters.join(","))
    }

    fn condition(&mut self, path: &str, levels: usize) -> String {
        match self.random.below(6) {
            0 | 1 => self.operand(),
            2 => self.operands(),
            _ => self.operators(path, levels),
        }
    }

    fn operands(&mut self) -> String {
        let count = self.random.below(7);
        let items: Vec<_> = (0..count).map(|_| self.operand()).collect();
        format!("[{}]", items.join(","))
    }

    fn operators(&mut self, path: &str, levels: usize) -> String {
        let mut names = vec![
            "$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$prefix", "$suffix",
            "$regex",
        ];
        if !self.is_for_mingo {
            names.push("$contains");
        }
        if levels > 0 {
            names.push("$not");
            if !(self.is_for_mingo && path.contains('.')) {
                names.push("$elemMatch");
            }
        }
        let count = 1 + self.random.below(2);
        let mut members = Vec::new();
        for _ in 0..count {
            let name = names.swap_remove(self.random.below(names.len()));
            members.push(format!("\"{name}\":{}", self.operand_of(name, path, levels)));
        }
        format!("{{{}}}", members.join(","))
    }

    fn operand_of(&mut self, name: &str, path: &str, levels: usize) -> String {
        match name {
            "$in" | "$nin" => self.operands(),
            "$gt" | "$gte" | "$lt" | "$lte" if self.random.below(3) == 0 => {
                self.random.pick(&STRINGS).to_owned()
            }
            "$gt" | "$gte" | "$lt" | "$lte" => self.random.pick(&NUMBERS).to_owned(),
            "$exists" => self.random.pick(&["true", "false"]).to_owned(),
            "$prefix" | "$suffix" => self.random.pick(&STRINGS).to_owned(),
            "$regex" => self.random.pick(&["\"^x\"", "\"y$\"", "\"[xy]\"", "\"^$\"", "\"z.*a\""]).to_owned(),
            "$elemMatch" if self.may_match_objects(path) && self.random.below(2) == 0 => self.fields(0),
            "$not" | "$elemMatch" => self.operators(path, levels - 1),
            _ => self.operand(),
        }
    }

    fn may_match_objects(&self, path: &str) -> bool {
        !self.is_for_mingo || KEYS_OF_OBJECTS.contains(&path)
    }
}
