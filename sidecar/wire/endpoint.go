package wire

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// MaxEndpointName bounds HOST:PORT in bytes: a name in full, with the dot at its end, and a port.
const MaxEndpointName = 254 + 1 + 5

// hostName is what RFC 1123 allows, in lower case. Its last label begins with a letter: a mistyped address must not be asked for
// as a name.
var hostName = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z]([-a-z0-9]{0,61}[a-z0-9])?\.?$`)

// SplitEndpointName reads HOST:PORT where HOST is a DNS name, for example vpn.example.com:51820. The error quotes at most a glance
// of it.
func SplitEndpointName(s string) (host string, port uint16, err error) {
	host, digits, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || digits[0] == '0' || digits[0] == '+' || len(host) > 254 || !hostName.MatchString(host) {
		return "", 0, fmt.Errorf("%.80q is not a DNS name in lower case and a port from 1 to 65535, like vpn.example.com:51820", s)
	}
	return host, uint16(n), nil
}
