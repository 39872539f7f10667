package key

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"golang.org/x/crypto/curve25519"
)

// holder has secrets behind every kind of exported field.
type holder struct {
	Exported Private
	Pointer  *Preshared
	List     []Private
	Map      map[string]Preshared
	Any      any
}

// hidden has them in unexported fields, where fmt prints memory without asking the type.
type hidden struct {
	priv   Private
	psk    Preshared
	nested struct{ inner []Private }
}

func secrets() (holder, [][]byte) {
	priv, psk := NewPrivate(), NewPreshared()
	h := holder{Exported: priv, Pointer: &psk, List: []Private{priv}, Map: map[string]Preshared{"k": psk}, Any: priv}
	p, _ := base64.StdEncoding.DecodeString(priv.Reveal())
	q, _ := base64.StdEncoding.DecodeString(psk.Reveal())
	return h, [][]byte{p, q}
}

// leaks looks for a key in any form that a formatter produces.
func leaks(t *testing.T, how, out string, keys [][]byte) {
	t.Helper()
	for _, k := range keys {
		forms := map[string]string{
			"base64": base64.StdEncoding.EncodeToString(k)[:16],
			"url":    base64.URLEncoding.EncodeToString(k)[:16],
			"hex":    hex.EncodeToString(k)[:16],
			"HEX":    strings.ToUpper(hex.EncodeToString(k))[:16],
			"raw":    string(k[:8]),
		}
		var list, commas, sharp []string
		for _, b := range k[:6] {
			list = append(list, fmt.Sprint(b))
			commas = append(commas, fmt.Sprint(b))
			sharp = append(sharp, fmt.Sprintf("0x%x", b))
		}
		forms["bytes"] = strings.Join(list, " ")
		forms["json"] = strings.Join(commas, ",")
		forms["go"] = strings.Join(sharp, ", ")
		for name, form := range forms {
			if strings.Contains(out, form) {
				t.Errorf("%s shows a secret key as %s: %s", how, name, out)
			}
		}
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	h, keys := secrets()
	for _, v := range []any{h, &h, h.Exported, &h.Exported, *h.Pointer, h.Pointer, h.List, h.Map, []any{h.Exported, *h.Pointer}} {
		printEverywhere(t, v, keys)
	}
}

// fmt looks into unexported fields without asking the type: the key's bytes must be where it prints an address.
func TestHiddenFieldsPrintNoSecret(t *testing.T) {
	h, keys := secrets()
	v := hidden{priv: h.Exported, psk: *h.Pointer}
	v.nested.inner = h.List
	printEverywhere(t, v, keys)
	printEverywhere(t, &v, keys)
	printEverywhere(t, []hidden{v}, keys)
}

func printEverywhere(t *testing.T, v any, keys [][]byte) {
	t.Helper()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%o", "%b", "%c", "%U", "%T", "%t"} {
		leaks(t, fmt.Sprintf("%s of %T", verb, v), fmt.Sprintf(verb, v), keys)
	}
	out, err := json.Marshal(v)
	leaks(t, fmt.Sprintf("json of %T", v), fmt.Sprint(string(out), err), keys)
	var text, js bytes.Buffer
	for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&text, nil)), slog.New(slog.NewJSONHandler(&js, nil))} {
		l.Info("x", "v", v, slog.Group("g", "v", v))
	}
	leaks(t, fmt.Sprintf("slog text of %T", v), text.String(), keys)
	leaks(t, fmt.Sprintf("slog json of %T", v), js.String(), keys)
	leaks(t, fmt.Sprintf("error with %T", v), fmt.Errorf("wrap %v: %w", v, errors.New("x")).Error(), keys)
}

func TestParseErrorsQuoteNoSecret(t *testing.T) {
	k := NewPrivate()
	s := k.Reveal()
	raw, _ := base64.StdEncoding.DecodeString(s)
	for _, bad := range []string{s[:43], s + "=", s + s, "x" + s} {
		_, err := ParsePrivate(bad)
		if err == nil {
			t.Fatalf("%d characters were accepted", len(bad))
		}
		leaks(t, "ParsePrivate's error", err.Error(), [][]byte{raw})
		_, err = ParsePreshared(bad)
		leaks(t, "ParsePreshared's error", fmt.Sprint(err), [][]byte{raw})
	}
}

// TestDerivation compares with RFC 7748 section 6.1 and with x/crypto.
func TestDerivation(t *testing.T) {
	fromHex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for priv, pub := range map[string]string{
		"77076d0a7318a57d3c16c17251b26645ab4c5d2c8a8a0f5f6b7e3d2b3f2c1a0b": "",
		"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb": "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
	} {
		k, err := ParsePrivate(base64.StdEncoding.EncodeToString(fromHex(priv)))
		if err != nil {
			t.Fatal(err)
		}
		want, err := curve25519.X25519(fromHex(priv), curve25519.Basepoint)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.Public(); !bytes.Equal(got[:], want) || pub != "" && got.Hex() != pub {
			t.Errorf("public key %s, want %x", got.Hex(), want)
		}
	}
	for range 100 {
		k := NewPrivate()
		b, _ := hex.DecodeString(k.Hex())
		want, _ := curve25519.X25519(b, curve25519.Basepoint)
		if got := k.Public(); !bytes.Equal(got[:], want) {
			t.Fatalf("public key %x, want %x", got, want)
		}
		if b[0]&7 != 0 || b[31]&0xc0 != 0x40 {
			t.Fatal("a new key is not clamped")
		}
		if again, err := ParsePrivate(k.Reveal()); err != nil || !again.Equal(k) {
			t.Fatalf("round trip: %v", err)
		}
	}
}

func TestZero(t *testing.T) {
	if !(Private{}).IsZero() || !(Preshared{}).IsZero() || !(Preshared{}).Equal(Preshared{}) || NewPreshared().IsZero() {
		t.Error("zero keys are not told apart")
	}
	if (Preshared{}).Hex() != strings.Repeat("0", 64) || (Private{}).Reveal() == "" {
		t.Error("a zero key has no form")
	}
	zero := base64.StdEncoding.EncodeToString(make([]byte, Size))
	if _, err := ParsePublic(zero); err == nil {
		t.Error("the zero public key was accepted")
	}
	if _, err := ParsePrivate(zero); err == nil {
		t.Error("the zero private key was accepted")
	}
	if p, err := ParsePreshared(zero); err != nil || !p.IsZero() {
		t.Error("the zero preshared key means none")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(NewPrivate().Reveal())
	f.Add("")
	f.Add(strings.Repeat("A", 43) + "=")
	f.Add(strings.Repeat("A", 42) + "B=")
	f.Add(strings.Repeat("0", 28) + "\n" + strings.Repeat("0", 15) + "=")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePublic(s); err == nil {
			if again, err := ParsePublic(p.String()); err != nil || again != p || p.String() != strings.TrimSpace(s) {
				t.Fatalf("%q: %v, %v", s, p, err)
			}
		}
		if p, err := ParsePrivate(s); err == nil {
			if again, err := ParsePrivate(p.Reveal()); err != nil || !again.Equal(p) {
				t.Fatalf("%q does not round trip", s)
			}
		}
		if p, err := ParsePreshared(s); err == nil && p.Reveal() != strings.TrimSpace(s) {
			t.Fatalf("%q does not round trip", s)
		}
	})
}
