package agent

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// scalar is a single value of a configuration file as it was written: what it means is decided where the field's name is known, so
// that an error can name both.
type scalar string

// maxFile bounds a configuration file in bytes.
const maxFile = 4 << 20

// decodeFile fills v, a struct of scalars, lists and structs, from one YAML document. Unknown fields are errors: they are typing
// errors. Anchors are refused: a few lines of them can stand for gigabytes.
func decodeFile(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if len(b) > maxFile {
		return fmt.Errorf("the file is larger than %d bytes", maxFile)
	}
	var doc, second yaml.Node
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	} else if err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return errors.New("the file holds more than one document: want one, without a line of ---")
	}
	if len(doc.Content) != 1 {
		return errors.New("the file is empty")
	}
	return decodeNode(doc.Content[0], reflect.ValueOf(v).Elem(), "")
}

func decodeNode(n *yaml.Node, v reflect.Value, path string) error {
	at := func(format string, a ...any) error {
		if path == "" {
			return fmt.Errorf("line %d: "+format, append([]any{n.Line}, a...)...)
		}
		return fmt.Errorf("%s: line %d: "+format, append([]any{path, n.Line}, a...)...)
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return at("anchors and aliases are not supported: write the value out")
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return nil // as if it was not there
	}
	switch v.Kind() {
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			return at("want fields: %s", strings.Join(fieldNames(v.Type()), ", "))
		}
		return decodeStruct(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return at("want a list")
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, c := range n.Content {
			if err := decodeNode(c, v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	default:
		if n.Kind != yaml.ScalarNode {
			return at("want a single value")
		}
		v.SetString(n.Value)
	}
	return nil
}

func decodeStruct(n *yaml.Node, v reflect.Value, path string) error {
	seen := map[string]bool{}
	names := fieldNames(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, field := n.Content[i].Value, -1
		for j, known := range names {
			if known == name {
				field = j
			}
		}
		full := strings.TrimPrefix(path+"."+name, ".")
		switch {
		case field < 0:
			// Neither the value nor a strange name is repeated: it may be a key in the wrong place.
			return fmt.Errorf("%s: line %d: unknown field, want one of %s", orTop(path), n.Content[i].Line, strings.Join(names, ", "))
		case seen[name]:
			return fmt.Errorf("%s: line %d: given twice", full, n.Content[i].Line)
		}
		seen[name] = true
		if err := decodeNode(n.Content[i+1], v.Field(field), full); err != nil {
			return err
		}
	}
	return nil
}

func orTop(path string) string {
	if path == "" {
		return "top level"
	}
	return path
}

func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("yaml")
	}
	return names
}

// String is the value as messages quote it: on one line, and not more than a glance of it.
func (s scalar) String() string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(string(s[:most]), "")) + "..."
	}
	return strconv.Quote(string(s))
}

// port reads a port number from least to 65535; empty is 0.
func (s scalar) port(least uint64) (uint16, error) {
	n, err := strconv.ParseUint(string(s), 10, 16)
	if s == "" {
		n, err = 0, nil
	}
	if err != nil || n < least {
		return 0, fmt.Errorf("%s is not a port from %d to 65535", s, least)
	}
	return uint16(n), nil
}

// addrPort reads ADDRESS:PORT; empty is the zero value.
func (s scalar) addrPort() (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	a, err := netip.ParseAddrPort(string(s))
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%s is not an IP address and a port from 1 to 65535, like 192.0.2.1:51820 or [2001:db8::1]:51820", s)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

// endpoint reads what to dial, ADDRESS:PORT or HOST:PORT; empty is neither.
func (s scalar) endpoint() (at netip.AddrPort, name string, err error) {
	if _, _, none := wire.SplitEndpointName(string(s)); s != "" && none == nil {
		return at, string(s), nil
	}
	if at, err = s.addrPort(); err != nil {
		return at, "", fmt.Errorf("%w or vpn.example.com:51820", err)
	}
	if a := at.Addr(); a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return at, "", fmt.Errorf("%s is not the address of one host", s)
	}
	return at, "", nil
}

// loopback reads ADDRESS:PORT on loopback; empty is the zero value.
func (s scalar) loopback() (netip.AddrPort, error) {
	a, err := s.addrPort()
	if err != nil || s != "" && !a.Addr().IsLoopback() {
		return netip.AddrPort{}, fmt.Errorf("%s is not a loopback address and a port from 1 to 65535, like 127.0.0.1:5432", s)
	}
	return a, nil
}

// prefix reads a range, or an address as the range of itself.
func (s scalar) prefix() (netip.Prefix, error) {
	if a, err := netip.ParseAddr(string(s)); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(string(s))
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%s is not an address range, like 10.7.0.2/32 or fd07::2/128", s)
	}
	return p, nil
}

// boolean reads true or false; empty is false.
func (s scalar) boolean() (bool, error) {
	switch s {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, fmt.Errorf("%s is not true or false", s)
}

// seconds reads a duration of whole seconds; empty is 0.
func (s scalar) seconds() (time.Duration, error) {
	if s == "" || s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(string(s))
	if err != nil || d < 0 || d > 65535*time.Second || d%time.Second != 0 {
		return 0, fmt.Errorf("%s is not whole seconds up to 65535s, like 25s", s)
	}
	return d, nil
}
