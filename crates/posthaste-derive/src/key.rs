//! The key of an event: a field, or a path of fields.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    DeriveInput, Error, Fields, Generics, LitStr, Member, Path, Result, Token, Type,
    WherePredicate, parse_quote,
};

/// The way to the key from `self`, for example `customer.id`.
pub(crate) struct KeyPath(Punctuated<Member, Token![.]>);

impl KeyPath {
    pub(crate) fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.peek(LitStr) {
            return Err(input.error("write the field without quotes: `key = order_id`"));
        }
        Ok(Self(Punctuated::parse_separated_nonempty(input)?))
    }

    /// The value of `Event::key`.
    pub(crate) fn value(&self, root: &Path) -> TokenStream {
        let path = &self.0;
        // All of it at the key's place, so that a type that cannot be a key is reported there.
        let span = path.span().resolved_at(Span::call_site());
        let root = at(span, root.to_token_stream());
        quote_spanned! {span=> #root::AsKey::as_key(&self.#path) }
    }

    /// The bound that the `impl` needs for a key whose type names a type parameter.
    ///
    /// # Errors
    /// At the key, if the struct has no such field.
    pub(crate) fn bound(
        &self,
        input: &DeriveInput,
        fields: &Fields,
        root: &Path,
    ) -> Result<Option<WherePredicate>> {
        let ty = self.first_type(input, fields)?;
        let generic = self.0.len() == 1 && names_parameter(ty, &input.generics);
        Ok(generic.then(|| parse_quote!(#ty: #root::AsKey)))
    }

    fn first_type<'a>(&self, input: &DeriveInput, fields: &'a Fields) -> Result<&'a Type> {
        let Some(first) = self.0.first() else {
            return Err(Error::new(Span::call_site(), "the key has no field"));
        };
        let found = fields.members().zip(fields).find(|(member, _)| member == first);
        found.map(|(_, field)| &field.ty).ok_or_else(|| {
            let names: Vec<String> =
                fields.members().map(|member| format!("`{}`", member.to_token_stream())).collect();
            let have = match names.as_slice() {
                [] => "it has no fields".to_owned(),
                names => format!("it has {}", names.join(", ")),
            };
            let wrong = first.to_token_stream();
            Error::new(first.span(), format!("`{}` has no field `{wrong}`: {have}", input.ident))
        })
    }
}

/// The same tokens at another place.
fn at(span: Span, tokens: TokenStream) -> TokenStream {
    let move_token = |mut token: TokenTree| {
        token.set_span(span);
        token
    };
    tokens.into_iter().map(move_token).collect()
}

/// Whether the type mentions one of the type parameters.
fn names_parameter(ty: &Type, generics: &Generics) -> bool {
    let parameters: Vec<&Ident> =
        generics.type_params().map(|parameter| &parameter.ident).collect();
    mentions(ty.to_token_stream(), &parameters)
}

fn mentions(tokens: TokenStream, names: &[&Ident]) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => names.contains(&&ident),
        TokenTree::Group(group) => mentions(group.stream(), names),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}
