-- Customer lists are applied one after another, or what is left of an older one would undo a newer one.
create unique index one_import_is_applied on customer_import (state) where state = 'applying';
