//! From a struct and its options to the `impl`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Path, Result, parse_quote};

use crate::options::Options;

/// The `impl Event` of the struct.
///
/// # Errors
/// At the token that is wrong.
pub(crate) fn event(input: &DeriveInput) -> Result<TokenStream> {
    let fields = fields(input)?;
    let Options { event_type, version, key, codec, root } = Options::read(input)?;
    let root: Path = root.unwrap_or_else(|| parse_quote!(::posthaste));

    let mut generics = input.generics.clone();
    let bound = key.as_ref().map(|key| key.bound(input, fields, &root)).transpose()?.flatten();
    if let Some(bound) = bound {
        generics.make_where_clause().predicates.push(bound);
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();

    let name = &input.ident;
    let version = version.map(|version| quote!(const VERSION: u32 = #version;));
    let codec = codec.map_or_else(|| quote!(#root::codec::Json), |codec| quote!(#codec));
    let key = key.map(|key| {
        let value = key.value(&root);
        quote! {
            fn key(&self) -> ::core::option::Option<#root::Bytes> {
                #value
            }
        }
    });
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #root::Event for #name #type_generics #where_clause {
            const TYPE: &'static str = #event_type;
            #version
            type Codec = #codec;
            #key
        }
    })
}

fn fields(input: &DeriveInput) -> Result<&Fields> {
    match &input.data {
        Data::Struct(data) => Ok(&data.fields),
        Data::Enum(data) => Err(Error::new(
            data.enum_token.span(),
            "an event is a struct: the variants of an enum would share one event type. Give each \
             variant a struct of its own, or write `impl Event` by hand",
        )),
        Data::Union(data) => Err(Error::new(data.union_token.span(), "an event is a struct")),
    }
}
