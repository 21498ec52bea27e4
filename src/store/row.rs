//! Row: reads a row of either database into a struct, column by column, by the names of its fields.

/// Implements `sqlx::FromRow` for both databases: `from_row!(Meter { id, name, effect: String })`. A field with a type is
/// stored as that type and converted by `TryFrom`.
///
/// The derive macro of sqlx does the same and costs a second build of sqlx, tokio and rustls, a seventh of a clean build.
macro_rules! from_row {
    ($struct:ident { $($field:ident $(: $stored:ty)?),+ }) => {
        from_row!(@for sqlx::postgres::PgRow, $struct { $($field $(: $stored)?),+ });
        from_row!(@for sqlx::sqlite::SqliteRow, $struct { $($field $(: $stored)?),+ });
    };
    (@for $row:ty, $struct:ident { $($field:ident $(: $stored:ty)?),+ }) => {
        impl sqlx::FromRow<'_, $row> for $struct {
            fn from_row(row: &$row) -> sqlx::Result<$struct> {
                Ok($struct { $($field: from_row!(@column row, $field $(, $stored)?)),+ })
            }
        }
    };
    (@column $row:ident, $field:ident) => {
        sqlx::Row::try_get($row, stringify!($field))?
    };
    (@column $row:ident, $field:ident, $stored:ty) => {
        sqlx::Row::try_get::<$stored, _>($row, stringify!($field))?.try_into().map_err(|error| {
            sqlx::Error::ColumnDecode { index: stringify!($field).to_owned(), source: Box::new(error) }
        })?
    };
}
