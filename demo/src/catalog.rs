//! Every emoji that can be voted for, in one table.

/// One row of [`ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// With its colons: `:doughnut:`
    pub shortcode: &'static str,
    /// The character itself.
    pub unicode: &'static str,
}

/// Calls the macro `$callback` with one `shortcode unicode method;` for each emoji, where `method` is the name of its
/// rpc in the generated `VotingService`. What is made of the table, here and in [`crate::voting`] and [`crate::web`],
/// therefore cannot disagree with it.
macro_rules! for_each_emoji {
    ($callback:ident) => {
        $callback! {
            ":beers:" "🍻" vote_beers;
            ":burrito:" "🌯" vote_burrito;
            ":cactus:" "🌵" vote_cactus;
            ":champagne:" "🍾" vote_champagne;
            ":dog:" "🐶" vote_dog;
            ":doughnut:" "🍩" vote_doughnut;
            ":ghost:" "👻" vote_ghost;
            ":heart_eyes_cat:" "😻" vote_heart_eyes_cat;
            ":joy:" "😂" vote_joy;
            ":pizza:" "🍕" vote_pizza;
            ":poop:" "💩" vote_poop;
            ":rainbow:" "🌈" vote_rainbow;
            ":rocket:" "🚀" vote_rocket;
            ":sunglasses:" "😎" vote_sunglasses;
            ":taco:" "🌮" vote_taco;
            ":tada:" "🎉" vote_tada;
        }
    };
}
pub(crate) use for_each_emoji;

macro_rules! entries {
    ($($shortcode:literal $unicode:literal $method:ident;)*) => {
        &[$(Entry { shortcode: $shortcode, unicode: $unicode }),*]
    };
}

/// All emoji, by shortcode.
pub const ALL: &[Entry] = for_each_emoji!(entries);

/// The one that voting fails for on purpose.
pub const FAULTY: &str = ":poop:";

/// The emoji of a shortcode, colons included.
pub fn find(shortcode: &str) -> Option<&'static Entry> {
    ALL.iter().find(|entry| entry.shortcode == shortcode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortcodes_are_sorted_and_written_with_colons() {
        assert!(ALL.is_sorted_by(|a, b| a.shortcode < b.shortcode));
        assert!(
            ALL.iter().all(|e| e.shortcode.len() > 2 && e.shortcode.starts_with(':') && e.shortcode.ends_with(':'))
        );
    }

    #[test]
    fn finds_by_the_whole_shortcode_only() {
        assert_eq!(find(":doughnut:").map(|entry| entry.unicode), Some("🍩"));
        assert!(find(FAULTY).is_some());
        for none in ["", "doughnut", ":dough", ":DOUGHNUT:"] {
            assert_eq!(find(none), None, "{none}");
        }
    }
}
