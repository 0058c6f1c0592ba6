// genqlient: go run . http://127.0.0.1:8080/graphql
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/Khan/genqlient/graphql"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

//go:generate go run github.com/Khan/genqlient

func main() {
	ctx, client := context.Background(), graphql.NewClient(os.Args[1], http.DefaultClient)

	seed, err := Seed(ctx, client)
	must(err)
	info := seed.Package.PublicationInfo
	require(*info.Username == "brianc" && !*info.Tor && *info.Tfa, "the seed's query")

	silent, err := Nulls(ctx, client)
	must(err)
	nulls := silent.Package.PublicationInfo
	require(nulls.Username == nil && nulls.Tor == nil && nulls.Tfa == nil, "null is null")

	refs := make([]PackageRef, 300)
	for n := range refs {
		refs[n] = PackageRef{Name: fmt.Sprintf("package-%d", n), Version: "1.0.0"}
		if n%3 == 0 {
			refs[n].Version = "none"
		}
	}
	many, err := Many(ctx, client, refs)
	must(err)
	for n, found := range many.Packages {
		require((found == nil) == (n%3 == 0), "a package or null")
		require(found == nil || found.Name == refs[n].Name, "in the order asked for")
	}

	names := map[string]bool{}
	for after := (*string)(nil); ; {
		page, err := Page(ctx, client, after)
		must(err)
		for _, edge := range page.Publications.Edges {
			names[edge.Node.Id] = true
		}
		if after = page.Publications.PageInfo.EndCursor; !page.Publications.PageInfo.HasNextPage {
			break
		}
	}
	require(len(names) == 302, "every page")

	_, err = Wrong(ctx, client, 101)
	var list gqlerror.List
	require(errors.As(err, &list) && list[0].Extensions["code"] == "BAD_USER_INPUT", "an error is an error")
	fmt.Println("genqlient")
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func require(is bool, what string) {
	if !is {
		log.Fatal(what)
	}
}
