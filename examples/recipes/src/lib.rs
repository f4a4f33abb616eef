//! What the recipes share: a database of their own, waiting for a condition, and the books that they are checked by. The recipes
//! themselves are the programs in `src/bin`; `docs/recipes.md` says what each is about.

mod books;
mod gremlin;
mod running;
mod stage;
mod until;

pub use crate::{
    books::Books,
    gremlin::Gremlin,
    running::while_running,
    stage::{Stage, run},
    until::{until, until_true},
};
