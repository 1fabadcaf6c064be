// What Databricks has in a catalog's schemas and Spark has in its own catalog only: SQL functions. And `read_files`.
package org.apache.spark.sql.rlm

import java.nio.charset.StandardCharsets.UTF_8
import java.nio.file.{Files, Path, Paths}

import org.apache.spark.sql.{SparkSession, SparkSessionExtensions}
import org.apache.spark.sql.catalyst.{FunctionIdentifier, TableIdentifier}
import org.apache.spark.sql.catalyst.analysis.{AnalysisContext, FunctionRegistry, UnresolvedFunction, UnresolvedTableValuedFunction}
import org.apache.spark.sql.catalyst.expressions.{Expression, ExpressionInfo, Literal, NamedArgumentExpression}
import org.apache.spark.sql.catalyst.parser.{ParameterContext, ParameterHandler, ParserInterface}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.classic.{SparkSession => Session}
import org.apache.spark.sql.functions.lit
import org.apache.spark.sql.types.{DataType, StructType}
import org.json4s._
import org.json4s.jackson.JsonMethods.parse

class Extensions extends (SparkSessionExtensions => Unit) {
  override def apply(extensions: SparkSessionExtensions): Unit = {
    extensions.injectParser((_, next) => new Parameters(next))
    // Hints are resolved just before Spark looks for functions.
    extensions.injectHintResolutionRule(session => new FolderFunctions(session.asInstanceOf[Session]))
    extensions.injectTableFunction(
      (FunctionIdentifier("read_files"), new ExpressionInfo(getClass.getName, "read_files"), ReadFiles))
  }
}

/** Writes a statement's parameters into its text: Delta 4.4's parser forgets those that Spark 4.2 hands over. */
class Parameters(next: ParserInterface) extends ParserInterface {
  override def parsePlanWithParameters(sql: String, context: ParameterContext): LogicalPlan =
    next.parsePlan(ParameterHandler.substituteParameters(sql, context)._1)
  override def parsePlan(sql: String): LogicalPlan = next.parsePlan(sql)
  override def parseQuery(sql: String): LogicalPlan = next.parseQuery(sql)
  override def parseExpression(sql: String): Expression = next.parseExpression(sql)
  override def parseTableIdentifier(sql: String): TableIdentifier = next.parseTableIdentifier(sql)
  override def parseFunctionIdentifier(sql: String): FunctionIdentifier = next.parseFunctionIdentifier(sql)
  override def parseMultipartIdentifier(sql: String): Seq[String] = next.parseMultipartIdentifier(sql)
  override def parseRoutineParam(sql: String): StructType = next.parseRoutineParam(sql)
  override def parseTableSchema(sql: String): StructType = next.parseTableSchema(sql)
  override def parseDataType(sql: String): DataType = next.parseDataType(sql)
}

/**
 * Finds `<schema>/<name>.function.json` for names of functions that Spark has not. A function is kept in Spark's own
 * catalog under a name of its own (`home`), which the file gives; it is made there again after a restart.
 */
class FolderFunctions(session: Session) extends Rule[LogicalPlan] {
  override def apply(plan: LogicalPlan): LogicalPlan = plan.resolveOperators { case node =>
    val called = node match {
      case table: UnresolvedTableValuedFunction => home(table.name).fold(table)(name => table.copy(name = name))
      case other => other
    }
    called.transformExpressions {
      case call: UnresolvedFunction => home(call.nameParts).fold(call)(name => call.copy(nameParts = name))
    }
  }

  private def home(name: Seq[String]): Option[Seq[String]] = {
    val own = session.sessionState.catalog
    if (name.length == 1 && own.isRegisteredFunction(FunctionIdentifier(name.head))) return None
    val manager = session.sessionState.catalogManager
    val inView = AnalysisContext.get.catalogAndNamespace
    val current = if (inView.isEmpty) manager.currentCatalog.name +: manager.currentNamespace.toSeq else inView
    val full = current.dropRight(name.length - 1).take(3 - name.length) ++ name
    val root = session.conf.getOption(s"spark.sql.catalog.${full.head}.root")
    if (full.length != 3 || root.isEmpty || !full.forall(isName)) return None
    val low = full.map(_.toLowerCase(java.util.Locale.ROOT))
    val file = Paths.get(root.get, low(0), low(1), s"${low(2)}.function.json")
    if (Files.exists(file)) Some(Seq("spark_catalog", "default", loaded(parse(new String(Files.readAllBytes(file), UTF_8)))))
    else None
  }

  private def loaded(stored: JValue): String = {
    val Seq(home, definition) = Seq("home", "definition").map(key => (stored \ key).asInstanceOf[JString].s)
    if (!session.sessionState.catalog.functionExists(FunctionIdentifier(home, Some("default"), Some("spark_catalog")))) {
      session.sql(s"CREATE FUNCTION IF NOT EXISTS spark_catalog.default.`$home` $definition")
    }
    home
  }

  private def isName(part: String): Boolean = part.nonEmpty && !part.matches("(?s).*[/\\\\\\p{Cntrl}].*") && part != ".."
}

/**
 * `read_files(path, format => 'csv', header => true, …)`. Without a schema, types are inferred and the column
 * `_rescued_data` is there; a value that does not fit is an error, since Spark has no way to rescue it.
 */
object ReadFiles extends (Seq[Expression] => LogicalPlan) {
  override def apply(arguments: Seq[Expression]): LogicalPlan = {
    val named = arguments.collect { case NamedArgumentExpression(key, value) => key.toLowerCase -> text(value) }.toMap
    val path = arguments.collectFirst { case value if !value.isInstanceOf[NamedArgumentExpression] => text(value) }
      .orElse(named.get("path"))
      .getOrElse(throw new IllegalArgumentException("read_files needs a path."))
    val format = named.getOrElse("format", guess(path)).toLowerCase
    val defaults = if (named.contains("schema")) Map.empty[String, String]
      else Map("inferSchema" -> "true", "mode" -> "FAILFAST")
    val reader = SparkSession.active.read.format(if (format == "binaryfile") "binaryFile" else format)
      .options(defaults ++ (named -- ours))
    val rows = named.get("schema").fold(reader)(reader.schema).load(path)
    val rescues = !named.contains("schema") && !named.contains("rescues") && !Set("text", "binaryfile").contains(format)
    val found = if (rescues) rows.withColumn("_rescued_data", lit(null).cast("string")) else rows
    found.queryExecution.logical
  }

  // `rescues => false` is COPY INTO's, which has no such column.
  private val ours = Seq("format", "schema", "path", "rescues")

  // No expression: what a statement reads can be seen in its text.
  private def text(value: Expression): String = value match {
    case Literal(constant, _) if constant != null => constant.toString
    case other => throw new IllegalArgumentException(s"read_files takes constants, and not ${other.sql}.")
  }

  private def guess(path: String): String = {
    val suffixes = Seq("csv", "json", "parquet", "avro", "orc", "xml", "txt")
    val first = Paths.get(path.stripPrefix("file:"))
    val names = if (Files.isDirectory(first)) first.toFile.list.toSeq else Seq(path)
    suffixes.find(suffix => names.exists(_.stripSuffix(".gz").endsWith(s".$suffix")))
      .map(found => if (found == "txt") "text" else found)
      .getOrElse(throw new IllegalArgumentException(s"read_files cannot tell the format of $path: say format => '…'."))
  }
}
