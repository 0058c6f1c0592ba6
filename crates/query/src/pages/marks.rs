//! The marks of notable publications: shapes in the timeline, and the same in words.

use maud::{Markup, html};
use model::{Publication, PublishMethod};

use crate::execute::FoundHistory;

/// A publication, and how it compares with earlier ones.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) publication: &'a Publication,
    pub(super) found_history: Option<&'a FoundHistory>,
}

/// A notable property. Each has its own shape, because colour is not visible to everybody, and not in print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Weaker,
    NewPublisher,
    Tor,
    Disputed,
}

impl Mark {
    pub(super) const ALL: [Self; 4] = [Self::Weaker, Self::NewPublisher, Self::Tor, Self::Disputed];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Weaker => "Weaker than before",
            Self::NewPublisher => "New publisher",
            Self::Tor => "Tor",
            Self::Disputed => "Disputed",
        }
    }

    /// The shape around a dot at 0, 0. The shapes of one publication do not overlap.
    pub(super) fn shape(self) -> Markup {
        match self {
            Self::Weaker => html! { path.mark.weaker d="M-7 12h14l-7 9z" {} },
            Self::NewPublisher => html! { path.mark.line d="M0 -22v10M-5 -17h10" {} },
            Self::Tor => html! { circle.mark.line r="9" {} },
            Self::Disputed => html! { path.mark.line d="M-8 8l16 -16" {} },
        }
    }
}

impl Row<'_> {
    pub(super) fn marks(&self) -> impl Iterator<Item = Mark> + use<'_> {
        Mark::ALL.into_iter().filter(|mark| self.has(*mark))
    }

    pub(super) fn has(&self, mark: Mark) -> bool {
        let history = self.found_history.map(|found| &found.history);
        let says = |flag: Option<Option<bool>>| flag.flatten() == Some(true);
        match mark {
            Mark::Weaker => says(history.map(|history| history.weaker)),
            Mark::NewPublisher => says(history.map(|history| history.new_publisher)),
            Mark::Tor => self.publication.info.tor == Some(true),
            Mark::Disputed => self.publication.info.disputed,
        }
    }

    pub(super) fn method(&self) -> PublishMethod {
        self.publication.info.method()
    }
}

/// The dot of a publication.
pub(super) fn dot(method: PublishMethod) -> Markup {
    html! { circle class={"dot " (super::words::class(method))} r="5" {} }
}

/// A mark inside a text.
pub(super) fn in_text(mark: Mark) -> Markup {
    html! {
        svg.glyph viewBox="-12 -24 24 48" width="12" height="24" aria-hidden="true" {
            circle.dot.plain r="5" {}
            (mark.shape())
        }
    }
}
