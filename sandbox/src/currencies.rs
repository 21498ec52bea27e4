//! Currencies: which ones Stripe takes, and the least it charges in each.

const KNOWN: &str = "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd \
    cad cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg \
    huf idr ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop \
    mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr \
    sek sgd shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xof xpf \
    yer zar zmw";

/// Whether `code` (lower case) is one of Stripe's currencies.
pub(super) fn is_known(code: &str) -> bool {
    code.len() == 3 && KNOWN.split_whitespace().any(|known| known == code)
}

/// The least that Stripe charges, in minor units.
pub(super) fn minimum_charge(currency: &str) -> i64 {
    match currency {
        "gbp" => 30,
        "jpy" | "krw" => 50,
        "pln" | "ron" | "myr" | "aed" => 200,
        "sek" | "nok" => 300,
        "dkk" => 250,
        "czk" => 1500,
        "huf" => 17500,
        "hkd" => 400,
        "mxn" | "thb" => 1000,
        _ => 50,
    }
}

/// Three-decimal currencies, whose last digit has to be 0.
pub(super) fn has_three_decimals(currency: &str) -> bool {
    matches!(currency, "bhd" | "jod" | "kwd" | "omr" | "tnd")
}
