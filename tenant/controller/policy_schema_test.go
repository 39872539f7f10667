package controller

import "strings"

func policyCases() []schemaCase {
	inbound := func(rules string) string {
		return "{expose: [{service: web}, {service: db}], policy: {inbound: [" + rules + "]}}"
	}
	long := "{peers: {}, services: [" + many(64, "s#"+strings.Repeat("a", 60)) + "], ports: [" + many(32, "{port: 1#}") + "]}"
	return []schemaCase{
		{"policy of nothing", inbound(""), ""},
		{"policy without expose", "{policy: {inbound: [{peers: {}}]}}", ""},
		{"policy", inbound(`{peers: {matchLabels: {team: a}}, services: [web], ports: [{port: 80}, {port: 80, protocol: UDP}]},
			{peers: {matchExpressions: [{key: team, operator: NotIn, values: [a, b]}, {key: x, operator: Exists}]}, services: [web, db]}, {peers: {}}`), ""},
		{"policy many", inbound(strings.Repeat("{peers: {}}, ", 33)), "spec.policy.inbound"},
		{"policy 32", inbound(strings.Repeat("{peers: {}, services: [web]}, ", 32)), ""},
		{"policy empty", "{policy: {}}", "spec.policy.inbound"},
		{"policy of null", "{policy: {inbound: null}}", "spec.policy.inbound"},
		{"policy for whom", inbound("{services: [web]}"), "spec.policy.inbound[0].peers"},
		{"policy for a list", inbound("{peers: [office]}"), "spec.policy.inbound[0].peers"},
		{"policy of what is not exposed", inbound("{peers: {}, services: [web, mail]}"), "policy.inbound[].services"},
		{"policy of what is not exposed, with nothing exposed", "{policy: {inbound: [{peers: {}, services: [web]}]}}", "policy.inbound[].services"},
		{"policy services empty", inbound("{peers: {}, services: []}"), "spec.policy.inbound[0].services"},
		{"policy services twice", inbound("{peers: {}, services: [web, web]}"), "spec.policy.inbound[0].services[1]"},
		{"policy services many", inbound("{peers: {}, services: [" + many(65, "s#") + "]}"), "spec.policy.inbound[0].services"},
		{"policy ports empty", inbound("{peers: {}, ports: []}"), "spec.policy.inbound[0].ports"},
		{"policy ports twice", inbound("{peers: {}, ports: [{port: 1}, {port: 1, protocol: TCP}]}"), "spec.policy.inbound[0].ports[1]"},
		{"policy ports many", inbound("{peers: {}, ports: [" + many(33, "{port: 1#}") + "]}"), "spec.policy.inbound[0].ports"},
		{"policy port 0", inbound("{peers: {}, ports: [{port: 0}]}"), "spec.policy.inbound[0].ports[0].port"},
		{"policy port protocol", inbound("{peers: {}, ports: [{port: 1, protocol: SCTP}]}"), "spec.policy.inbound[0].ports[0].protocol"},
		{"policy selector operator", inbound("{peers: {matchExpressions: [{key: a, operator: Like, values: [x]}]}}"), "spec.policy.inbound[0].peers"},
		{"policy selector without values", inbound("{peers: {matchExpressions: [{key: a, operator: In}]}}"), "spec.policy.inbound[0].peers"},
		{"policy selector with values", inbound("{peers: {matchExpressions: [{key: a, operator: Exists, values: [x]}]}}"), "spec.policy.inbound[0].peers"},
		{"policy selector value", inbound(`{peers: {matchLabels: {a: "b c"}}}`), "spec.policy.inbound[0].peers.matchLabels.a"},
		{"policy selector value empty", inbound(`{peers: {matchLabels: {a: ""}}}`), ""},
		{"policy selector value long", inbound("{peers: {matchLabels: {a: " + strings.Repeat("x", 64) + "}}}"), "spec.policy.inbound[0].peers.matchLabels.a"},
		{"policy selector key", inbound("{peers: {matchExpressions: [{key: 'a b', operator: Exists}]}}"), "spec.policy.inbound[0].peers.matchExpressions[0].key"},
		{"policy selector key with a domain", inbound("{peers: {matchExpressions: [{key: example.com/Team_a.b, operator: Exists}]}}"), ""},
		{"policy selector unknown", inbound("{peers: {matchNames: [a]}}"), "matchNames"},
		{"policy selector many", inbound("{peers: {matchExpressions: [" + many(17, "{key: a#, operator: Exists}") + "]}}"), "spec.policy.inbound[0].peers"},
		{"policy selector labels many", inbound("{peers: {matchLabels: {" + many(17, "a#: x") + "}}}"), "spec.policy.inbound[0].peers"},
		{"policy as large as can be", "{expose: [" + many(64, "{service: s#"+strings.Repeat("a", 60)+"}") + "], policy: {inbound: [" + strings.Repeat(long+", ", 31) + long + "]}}", ""},
		{"policy outbound", "{policy: {inbound: [], outbound: []}}", "outbound"},
	}
}
