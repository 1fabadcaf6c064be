// The folder tree `<root>/<catalog>/<schema>/<table>/_delta_log` as a Spark catalog, and the server's main class.
//
// Spark has no catalog of this kind: Delta's own extends the session catalog, which knows one catalog only, and
// forgets it at the end. Compiled at the first start by the Scala compiler that pyspark brings along.
// Below org.apache.spark.sql because V1Table, the way a catalog hands Delta tables and views on, is private to it.
package org.apache.spark.sql.rlm

import java.io.File
import java.net.URI
import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.{Files, Path, Paths}
import java.nio.file.attribute.PosixFilePermissions
import java.util

import scala.jdk.CollectionConverters._

import org.apache.hadoop.conf.Configuration
import org.apache.hadoop.fs.{DelegateToFileSystem, LocalFileSystem, RawLocalFileSystem}
import org.apache.hadoop.fs.permission.FsPermission
import org.apache.spark.sql.catalyst.TableIdentifier
import org.apache.spark.sql.catalyst.analysis.{NoSuchFunctionException, NoSuchNamespaceException, NoSuchTableException}
import org.apache.spark.sql.catalyst.catalog.{CatalogStorageFormat, CatalogTable, CatalogTableType}
import org.apache.spark.sql.catalyst.parser.CatalystSqlParser
import org.apache.spark.sql.connector.catalog._
import org.apache.spark.sql.connector.catalog.functions.UnboundFunction
import org.apache.spark.sql.connector.expressions.Transform
import org.apache.spark.sql.delta.catalog.DeltaCatalog
import org.apache.spark.sql.types.{StructField, StructType}
import org.apache.spark.sql.util.CaseInsensitiveStringMap
import org.json4s._
import org.json4s.jackson.JsonMethods.parse

/** One catalog of the tree; its option `root` is the folder of all catalogs. */
class FolderCatalog extends DeltaCatalog {
  override def initialize(name: String, options: CaseInsensitiveStringMap): Unit = {
    setDelegateCatalog(new Folders(name, Paths.get(options.get("root"), name)))
    super.initialize(name, options)
  }
}

/** What the folders say. Making, changing and dropping tables is the workspace's business, not Spark's. */
class Folders(catalog: String, root: Path) extends TableCatalog with SupportsNamespaces with FunctionCatalog {
  override def name(): String = catalog
  override def initialize(name: String, options: CaseInsensitiveStringMap): Unit = ()
  override def defaultNamespace(): Array[String] = Array("default")

  override def loadTable(ident: Identifier): Table = {
    if (ident.namespace.length != 1 || !isName(ident.name) || !isName(ident.namespace.head)) {
      throw new NoSuchTableException(ident)
    }
    val schema = root.resolve(fold(ident.namespace.head))
    val table = fold(ident.name)
    val pointer = schema.resolve(s"$table.table.json")
    val view = schema.resolve(s"$table.view.json")
    val folder = if (Files.exists(pointer)) Paths.get(text(json(pointer), "location")) else schema.resolve(table)
    if (Files.isDirectory(folder.resolve("_delta_log"))) new V1Table(delta(ident, folder))
    else if (Files.exists(view)) new V1Table(viewOf(ident, json(view)))
    else throw new NoSuchTableException(ident)
  }

  private def delta(ident: Identifier, folder: Path): CatalogTable = CatalogTable(
    identifier = identifier(ident),
    tableType = CatalogTableType.EXTERNAL,
    storage = CatalogStorageFormat.empty.copy(locationUri = Some(folder.toUri)),
    schema = new StructType(), // Delta reads it from the log
    provider = Some("delta"))

  private def viewOf(ident: Identifier, stored: JValue): CatalogTable = {
    val columns = (stored \ "columns").children.map { column =>
      StructField(text(column, "name"), CatalystSqlParser.parseDataType(text(column, "type")))
    }
    CatalogTable(
      identifier = identifier(ident),
      tableType = CatalogTableType.VIEW,
      storage = CatalogStorageFormat.empty,
      schema = StructType(columns),
      viewText = Some(text(stored, "query")),
      // The query's names are complete, so where it is resolved does not matter; Spark wants to know.
      properties = CatalogTable.catalogAndNamespaceToProps(catalog, Seq("default")) ++ Map(
        CatalogTable.VIEW_QUERY_OUTPUT_NUM_COLUMNS -> columns.length.toString) ++
        columns.zipWithIndex.map { case (column, index) =>
          s"${CatalogTable.VIEW_QUERY_OUTPUT_COLUMN_NAME_PREFIX}$index" -> column.name
        })
  }

  override def listTables(namespace: Array[String]): Array[Identifier] = {
    val names = files(schemaOf(namespace)).map(_.getName)
      .map(_.stripSuffix(".view.json").stripSuffix(".table.json"))
      .filterNot(name => name.startsWith(".") || name.startsWith("_draft_"))
      .distinct.map(Identifier.of(namespace, _))
    names.filter(tableExists).toArray
  }

  override def listNamespaces(): Array[Array[String]] =
    files(root).filter(file => file.isDirectory && !file.getName.startsWith(".")).map(f => Array(f.getName)).toArray

  override def listNamespaces(namespace: Array[String]): Array[Array[String]] = {
    if (namespace.isEmpty) listNamespaces() else { schemaOf(namespace); Array.empty }
  }

  override def loadNamespaceMetadata(namespace: Array[String]): util.Map[String, String] = {
    val folder = schemaOf(namespace)
    Map(SupportsNamespaces.PROP_LOCATION -> folder.toUri.toString).asJava
  }

  override def listFunctions(namespace: Array[String]): Array[Identifier] = Array.empty
  override def loadFunction(ident: Identifier): UnboundFunction = throw new NoSuchFunctionException(ident)

  override def createTable(ident: Identifier, schema: StructType, partitions: Array[Transform],
      properties: util.Map[String, String]): Table = refuse("CREATE TABLE")
  override def alterTable(ident: Identifier, changes: TableChange*): Table = refuse("ALTER TABLE")
  override def dropTable(ident: Identifier): Boolean = refuse("DROP TABLE")
  override def renameTable(old: Identifier, renamed: Identifier): Unit = refuse("ALTER TABLE … RENAME")
  override def createNamespace(namespace: Array[String], metadata: util.Map[String, String]): Unit =
    refuse("CREATE SCHEMA")
  override def alterNamespace(namespace: Array[String], changes: NamespaceChange*): Unit = refuse("ALTER SCHEMA")
  override def dropNamespace(namespace: Array[String], cascade: Boolean): Boolean = refuse("DROP SCHEMA")

  private def refuse(what: String): Nothing = throw new UnsupportedOperationException(
    s"$what in this form is not supported by the local workspace: write it as a SQL statement, or save to a path.")

  private def schemaOf(namespace: Array[String]): Path = {
    val folder = if (namespace.length == 1 && isName(namespace.head)) root.resolve(fold(namespace.head)) else null
    if (folder == null || !Files.isDirectory(folder)) throw new NoSuchNamespaceException(namespace)
    folder
  }

  private def identifier(ident: Identifier) =
    TableIdentifier(fold(ident.name), Some(fold(ident.namespace.head)), Some(catalog))
  private def isName(part: String): Boolean = !part.matches("(?s).*[\\s./\\\\\\p{Cntrl}].*") && part.nonEmpty
  private def fold(part: String): String = part.toLowerCase(util.Locale.ROOT)
  private def files(folder: Path): Seq[File] = Option(folder.toFile.listFiles).toSeq.flatten.sortBy(_.getName)
  private def json(file: Path): JValue = parse(new String(Files.readAllBytes(file), UTF_8))
  private def text(value: JValue, key: String): String = (value \ key).asInstanceOf[JString].s
}

/** Local files whose permissions are set by a system call: without its native library, Hadoop runs `chmod`. */
class RawLocalFiles extends RawLocalFileSystem {
  override def setPermission(path: org.apache.hadoop.fs.Path, permission: FsPermission): Unit = {
    val text = Seq(permission.getUserAction, permission.getGroupAction, permission.getOtherAction).map(_.SYMBOL)
    Files.setPosixFilePermissions(pathToFile(path).toPath, PosixFilePermissions.fromString(text.mkString))
  }
}

/** The same with checksums, as Spark reads and writes data. */
class LocalFiles extends LocalFileSystem(new RawLocalFiles)

/** The same as Delta writes its log. */
class LocalFileContext(uri: URI, configuration: Configuration)
    extends DelegateToFileSystem(uri, new RawLocalFiles, configuration, "file", false) {
  override def getUriDefaultPort: Int = -1
  override def isValidName(name: String): Boolean = true // a local file may have any name
}

/** Spark Connect's server, which ends when its standard input does: with whoever started it, come what may. */
object Server {
  def main(arguments: Array[String]): Unit = {
    daemon(() => {
      while (System.in.read() >= 0) {}
      daemon(() => { Thread.sleep(5000); Runtime.getRuntime.halt(0) }) // should the orderly way hang
      System.exit(0)
    })
    org.apache.spark.sql.connect.service.SparkConnectServer.main(arguments)
  }

  private def daemon(work: Runnable): Unit = {
    val thread = new Thread(work)
    thread.setDaemon(true)
    thread.start()
  }
}
