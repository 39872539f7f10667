package injector

import "testing"

func TestConfigValidate(t *testing.T) {
	if err := testConfig().Validate(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no image":                      func(c *Config) { c.Image = "" },
		"no gateway image":              func(c *Config) { c.GatewayImage = "" },
		"no domain":                     func(c *Config) { c.ClusterDomain = "" },
		"root":                          func(c *Config) { c.User = 0 },
		"plain http":                    func(c *Config) { c.CoordinatorURL = "http://x" },
		"no coordinator":                func(c *Config) { c.CoordinatorURL = "" },
		"no level":                      func(c *Config) { c.PodSecurityDefault = "" },
		"bad choice of user namespaces": func(c *Config) { c.UserNamespaces = "true" },
		"bad level":                     func(c *Config) { c.PodSecurityDefault = "Restricted" },
		"no domain of the TUN resource": func(c *Config) { c.TUNResource = "tun" },
		"bad TUN resource":              func(c *Config) { c.TUNResource = "x y/tun" },
		"TUN resource without a name":   func(c *Config) { c.TUNResource = "example.com/" },
		"TUN resource of Kubernetes":    func(c *Config) { c.TUNResource = "x.kubernetes.io/tun" },
		"Auto without a TUN resource":   func(c *Config) { c.TUNForAuto = true },
	} {
		c := testConfig()
		if spoil(c); c.Validate() == nil {
			t.Errorf("%s is valid", name)
		}
	}
}
