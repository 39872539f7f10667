package controller

import (
	"fmt"
	"strings"
)

func dnsCases() []schemaCase {
	zones := func(zones, more string) string {
		return fmt.Sprintf("{addressing: {ipv4Pool: 10.77.0.0/24}, dns: {zones: [%s]}%s}", zones, more)
	}
	const corp = "{domain: corp.internal, servers: [192.168.10.53]}"
	egress := func(host string) string { return ", egress: [{host: " + host + ", ports: [{port: 1}]}]" }
	cases := []schemaCase{
		{"dns", zones(corp, ""), ""},
		{"dns everything", zones(`{domain: corp.internal, servers: [192.168.10.53, "2001:db8::53", 192.168.10.54]}, {domain: x, servers: [192.168.10.53]}`, egress("a.b.corp.internal")), ""},
		{"dns zone itself", zones(corp, egress("corp.internal")), ""},
		{"dns as much as there can be", zones(many(16, "{domain: "+strings.Repeat("a", 60)+"#."+strings.Repeat("b", 63)+", servers: [192.168.10.53, 192.168.10.54, 192.168.10.55]}"),
			", egress: ["+many(64, "{host: h#."+strings.Repeat("a", 60)+"0."+strings.Repeat("b", 63)+", ports: [{port: 1}]}")+"]"), ""},
		{"dns IPv6 server without a pool", `{dns: {zones: [{domain: corp, servers: ["2001:db8::53"]}]}}`, ""},
		{"dns IPv4 server without a pool", "{dns: {zones: [" + corp + "]}}", "dns"},
		{"dns no zones", zones("", ""), "spec.dns.zones"},
		{"dns empty", "{dns: {}}", "spec.dns.zones"},
		{"dns many zones", zones(many(17, "{domain: d#, servers: [192.168.10.53]}"), ""), "spec.dns.zones"},
		{"dns zone twice", zones(corp+", "+corp, ""), "spec.dns.zones[1]"},
		{"dns no servers", zones("{domain: corp, servers: []}", ""), "spec.dns.zones[0].servers"},
		{"dns servers missing", zones("{domain: corp}", ""), "spec.dns.zones[0].servers"},
		{"dns many servers", zones("{domain: corp, servers: [192.168.10.1, 192.168.10.2, 192.168.10.3, 192.168.10.4]}", ""), "spec.dns.zones[0].servers"},
		{"dns server twice", zones("{domain: corp, servers: [192.168.10.1, 192.168.10.1]}", ""), "spec.dns.zones[0].servers[1]"},
		{"egress in no zone", zones(corp, egress("db.corp")), "egress"},
		{"egress beside a zone", zones(corp, egress("acorp.internal")), "egress"},
		{"egress without address or dns", "{egress: [{host: db.corp.internal, ports: [{port: 1}]}]}", "egress"},
	}
	for _, bad := range []string{"Corp", "corp.", ".corp", "a..b", "-a", "a_b", "a b", "", "localhost", "192.0.2.1", "a\\n", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a"} {
		cases = append(cases, schemaCase{"dns domain " + bad, zones(fmt.Sprintf(`{domain: "%s", servers: [192.168.10.53]}`, bad), ""), "spec.dns.zones[0].domain"})
	}
	for _, bad := range []string{"127.0.0.53", "169.254.169.254", "224.0.0.251", "0.0.0.0", "::1", "fe80::1", "ff02::fb", "::ffff:10.0.0.1", "ns.corp.internal", "", "192.168.10.53:53", "192.168.10.53/32"} {
		cases = append(cases, schemaCase{"dns server " + bad, zones(fmt.Sprintf("{domain: corp, servers: [%q]}", bad), ""), "spec.dns.zones[0].servers"})
	}
	return cases
}
