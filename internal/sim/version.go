package sim

import (
	"fmt"
	"strconv"
	"strings"
)

// version is a version of the REST API.
type version int

const (
	v2  version = 20
	v21 version = 21
	v22 version = 22
	v23 version = 23
)

func (v version) String() string {
	switch v {
	case v2:
		return "v2"
	case v21:
		return "v2.1"
	case v22:
		return "v2.2"
	case v23:
		return "v2.3"
	}
	return ""
}

func parseVersion(s string) (version, bool) {
	for _, v := range []version{v2, v21, v22, v23} {
		if v.String() == s {
			return v, true
		}
	}
	return 0, false
}

// product is a version of the array's software; four numbers.
type product [4]int

func parseProduct(s string) (product, error) {
	var p product
	parts := strings.Split(s, ".")
	if len(parts) != len(p) {
		return p, fmt.Errorf("software version %q is not four numbers such as 3.3.4.0", s)
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return p, fmt.Errorf("software version %q is not four numbers such as 3.3.4.0", s)
		}
		p[i] = n
	}
	return p, nil
}

func (p product) atLeast(q product) bool {
	for i := range p {
		if p[i] != q[i] {
			return p[i] > q[i]
		}
	}
	return true
}

// The releases at which something appeared.
type release int

const (
	always release = iota
	product30
	product32
	product33
	product335
)

func (r release) product() product {
	switch r {
	case product30:
		return product{3, 0}
	case product32:
		return product{3, 2}
	case product33:
		return product{3, 3}
	case product335:
		return product{3, 3, 5}
	case always:
	}
	return product{}
}

// gate says which API versions and which products know a route or a field.
type gate struct {
	from, to version // to is inclusive; 0 is no bound
	since    release
}

func (g gate) open(v version, p product) bool {
	if v < g.from || (g.to != 0 && v > g.to) {
		return false
	}
	return p.atLeast(g.since.product())
}

// defaultVersions are the API versions a product serves.
func defaultVersions(p product) []string {
	versions := []string{"v2", "v2.1"}
	if p.atLeast(product30.product()) {
		versions = append(versions, "v2.2")
	}
	if p.atLeast(product33.product()) {
		versions = append(versions, "v2.3")
	}
	return versions
}
