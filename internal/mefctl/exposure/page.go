package exposure

import (
	"mef/internal/conf"
	"mef/internal/pagechild"
)

// Page returns what would keep the operator's page and the metrics from being served. With listen, that includes addresses in use.
func Page(cfg *conf.Config, listen bool) []string { return pagechild.Check(cfg.Page, listen) }
