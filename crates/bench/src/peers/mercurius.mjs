// Mercurius as in its documentation: just-in-time compilation, one loader, one connection pool.
import Fastify from 'fastify'
import mercurius from 'mercurius'
import pg from 'pg'

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 8 })
const schema = `
  type PublicationInfo { username: String created: String tor: Boolean tfa: Boolean }
  type Package { name: String! version: String! publicationInfo: PublicationInfo }
  input PackageRef { name: String! version: String! }
  type Query { package(name: String!, version: String!): Package packages(refs: [PackageRef!]!): [Package]! }
`
const sql = {
  name: 'publications',
  text: `SELECT k.place, p.username, p.created, p.tor, p.tfa
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS k(name, version, place)
    JOIN publication p USING (name, version)`,
}
const loaders = {
  Package: {
    publicationInfo: {
      opts: { cache: false },
      async loader (queries) {
        const keys = queries.map(({ obj }) => obj)
        const values = [keys.map(key => key.name), keys.map(key => key.version)]
        const { rows } = await pool.query({ ...sql, values })
        const found = new Array(keys.length).fill(null)
        for (const row of rows) found[row.place - 1] = { ...row, created: row.created.toISOString() }
        return found
      },
    },
  },
}
const resolvers = { Query: { package: (_, key) => key, packages: (_, { refs }) => refs } }
const app = Fastify({ bodyLimit: 4 << 20 })
app.register(mercurius, { schema, loaders, resolvers, jit: 1, graphiql: false })
await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' })
