use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Error, Field, Fields, Ident, Index, LitStr, Member, Type, ext::IdentExt, parse_str};

use crate::{
    expand::at,
    suggest::{instead_of, one_of},
};

/// The field that keys the event.
pub(crate) struct Key<'a> {
    member: Member,
    ty: &'a Type,
    /// Fields within that field, from the outside in.
    deeper: Vec<Member>,
    named_at: Span,
}

impl<'a> Key<'a> {
    pub(crate) fn find(ident: &Ident, fields: &'a Fields, name: &LitStr) -> Result<Self, Error> {
        let given = name.value();
        let mut steps = given.split('.').map(|step| step.strip_prefix("r#").unwrap_or(step));
        let wanted = steps.next().unwrap_or_default();
        let found = fields.members().zip(fields).find(|(member, _)| called(member) == wanted);
        let Some((member, Field { ty, .. })) = found else {
            return Err(Error::new(name.span(), unknown(ident, fields, &given, wanted)));
        };
        let deeper = steps.map(|step| parse_member(step, name.span())).collect::<Option<Vec<_>>>();
        let mistake = match deeper {
            Some(deeper) if deeper.is_empty() || !is_option(ty) => {
                return Ok(Self { member, ty, deeper, named_at: name.span() });
            }
            Some(_) => format!(
                "`{wanted}` is an `Option`, so `{given}` may not be there: name `{wanted}`, and implement \
                 `event_box::PartitionKey` for the type in it; `None` is then no key"
            ),
            None => format!("`{given}` is not a path of fields: write it as in `customer.id`"),
        };
        Err(Error::new(name.span(), mistake))
    }

    /// The expression for the key's text.
    pub(crate) fn text(&self) -> TokenStream {
        let Self { member, ty, deeper, named_at } = self;
        if deeper.is_empty() {
            return quote!(<#ty as ::event_box::PartitionKey>::partition_key(&self.#member));
        }
        quote_spanned!(at(*named_at)=> ::event_box::PartitionKey::partition_key(&self.#member #(.#deeper)*))
    }
}

fn unknown(ident: &Ident, fields: &Fields, given: &str, wanted: &str) -> String {
    let names: Vec<_> = fields.members().map(|member| called(&member)).collect();
    if names.is_empty() {
        format!("`{ident}` has no fields: leave `partition_key` out")
    } else if given.is_empty() {
        format!("the partition key is empty: name {}, or leave it out for events without order", one_of(&names))
    } else {
        format!("no field `{wanted}` on `{ident}`, {}", instead_of(wanted, &names))
    }
}

/// What an attribute calls a field: `type` for `r#type`, `0` for the first of a tuple struct.
pub(crate) fn called(member: &Member) -> String {
    match member {
        Member::Named(name) => name.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}

/// A field of a type that only the compiler knows.
fn parse_member(step: &str, span: Span) -> Option<Member> {
    if let Ok(index) = step.parse() {
        return Some(Member::Unnamed(Index { index, span: at(span) }));
    }
    let mut name = parse_str::<Ident>(step).or_else(|_| parse_str(&format!("r#{step}"))).ok()?;
    name.set_span(at(span));
    Some(Member::Named(name))
}

fn is_option(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == "Option"))
}
