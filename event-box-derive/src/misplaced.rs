use syn::{Attribute, Data, DeriveInput, Error};

use crate::{key::called, parse::is_event};

/// The compiler takes a helper attribute anywhere in the item, so a misplaced one would be ignored in silence.
pub(crate) fn attributes(input: &DeriveInput, errors: &mut Vec<Error>) {
    let mut report = |attributes: &[Attribute], message: &str| {
        let misplaced = attributes.iter().filter(|attribute| is_event(attribute));
        errors.extend(misplaced.map(|attribute| Error::new_spanned(attribute, message)));
    };
    match &input.data {
        Data::Struct(data) => {
            for (member, field) in data.fields.members().zip(&data.fields) {
                let key = format!("#[event(partition_key = \"{}\")]", called(&member));
                let place = format!("`#[event(..)]` belongs on the struct `{}`", input.ident);
                report(&field.attrs, &format!("{place}: to key by this field, write `{key}` there"));
            }
        }
        Data::Enum(data) => {
            for variant in &data.variants {
                let message = format!("`#[event(..)]` belongs on the struct that `{}` holds", variant.ident);
                for attributes in variant.fields.iter().map(|field| &field.attrs).chain([&variant.attrs]) {
                    report(attributes, &message);
                }
            }
        }
        Data::Union(_) => {}
    }
}
